# Makes a configuration file: its frame, and the option table of the program itself as comments.
#
#   cmake -D PROGRAM=FILE -D FRAME=FILE -D OUT=FILE -P config.cmake
execute_process(COMMAND ${PROGRAM} --help OUTPUT_VARIABLE help COMMAND_ERROR_IS_FATAL ANY)
string(REGEX REPLACE "^.*\noptions:\n" "" help "${help}")
string(REGEX REPLACE "\n\n.*$" "" help "${help}")
string(REGEX REPLACE "\n+$" "" help "${help}")
string(REPLACE "\n" "\n#" HELP "#${help}")
configure_file(${FRAME} ${OUT} @ONLY)
