# Puts the option table (what `kelpfs --dump-options=man` prints) into the man page's frame.
execute_process(COMMAND ${PROGRAM} --dump-options=man OUTPUT_VARIABLE OPTIONS
	COMMAND_ERROR_IS_FATAL ANY)
configure_file(${FRAME} ${OUT} @ONLY)
