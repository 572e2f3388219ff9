/* The filer client against filers that fail, lie and break off. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "filer/base/base.h"
#include "filer/filer.h"
#include "filer/http.h"
#include "filer/token.h"
#include "tests/support/scripted_server.h"

#define JSON_HEAD "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"
#define STATUS_HEAD(status)                                                                        \
	"HTTP/1.1 " status " x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
#define ENTRY(name)                                                                                \
	"{\"FullPath\":\"/d/" name "\",\"Mtime\":\"2026-11-22T02:36:51Z\",\"Mode\":420,"           \
	"\"FileSize\":7}"
#define LIST(entries, more)                                                                        \
	"{\"Path\":\"/d\",\"Entries\":[" entries "],\"ShouldDisplayLoadMore\":" more "}"
#define WAIT_MS 3000

static const struct script_step entry_script[] = { RECEIVE(), SEND(JSON_HEAD ENTRY("f")), CLOSE() };

/* A client of up to two scripted filers. */
struct rig {
	struct scripted_server *server[2];
	const struct script_step **scripts[2]; /* of the servers, which keep the pointers */
	struct http_pool *http;
	struct filer *filer;
};

static void add_endpoint(const char *url, struct endpoint *ret)
{
	assert_int_equal(endpoint_parse(url, strlen(url), 1, ret), 0);
	/* Nothing listens there. */
	ret->grpc_port = 1;
}

static struct scripted_server *start(const struct script_step *const *scripts, size_t n,
				     const struct script_step ***ret_copy)
{
	*ret_copy = calloc(n, sizeof(void *));
	assert_non_null(*ret_copy);
	for (size_t i = 0; i < n; i++)
		(*ret_copy)[i] = scripts[i];
	return scripted_server_start(*ret_copy, n);
}

/* b NULL: one filer. */
static struct rig rig_new(const struct script_step *const *a, size_t n_a,
			  const struct script_step *b, struct token_source *tokens)
{
	const struct http_config http = { 0 };
	struct endpoint filers[2];
	struct filer_config config = { .filers = filers, .n_filers = b ? 2 : 1 };
	struct rig r = { 0 };

	r.server[0] = start(a, n_a, &r.scripts[0]);
	add_endpoint(scripted_server_url(r.server[0]), &filers[0]);
	if (b) {
		r.server[1] = start(&b, 1, &r.scripts[1]);
		add_endpoint(scripted_server_url(r.server[1]), &filers[1]);
	}
	assert_int_equal(http_pool_new(&http, &r.http), 0);
	assert_int_equal(filer_new(r.http, tokens, &config, &r.filer), 0);
	return r;
}

static struct rig rig_of(const struct script_step *script)
{
	return rig_new(&script, 1, NULL, NULL);
}

static void rig_free(struct rig *r)
{
	filer_free(r->filer);
	http_pool_free(r->http);
	scripted_server_stop(r->server[0]);
	if (r->server[1])
		scripted_server_stop(r->server[1]);
	free(r->scripts[0]);
	free(r->scripts[1]);
}

static int lookup(struct rig *r, const char *path)
{
	struct entry *e = NULL;
	int err = filer_lookup(r->filer, path, deadline_in_ms(WAIT_MS), &e);

	assert_int_equal(err == 0, e != NULL);
	entry_put(e);
	return err;
}

static int lookup_error(const struct script_step *script)
{
	struct rig r = rig_of(script);
	int err = lookup(&r, "/d/f");

	assert_int_equal(scripted_server_requests(r.server[0]), 1);
	rig_free(&r);
	return err;
}

struct page {
	char names[256]; /* each followed by a space, or by "! " where it did not decode */
	unsigned n;
	int stop_with;
	bool more;
};

static int on_entry(void *arg, const char *name, struct entry *e)
{
	struct page *p = arg;
	size_t at = strlen(p->names);

	snprintf(p->names + at, sizeof(p->names) - at, "%s%s", name, e ? " " : "! ");
	entry_put(e);
	p->n++;
	return p->stop_with;
}

static int list(struct rig *r, const char *after, unsigned limit, struct page *p)
{
	return filer_list(r->filer, "/d", after, limit, deadline_in_ms(WAIT_MS), on_entry, p,
			  &p->more);
}

static int list_script(const struct script_step *script, struct page *p)
{
	struct rig r = rig_of(script);
	int err = list(&r, "", 10, p);

	rig_free(&r);
	return err;
}

static void paths_are_encoded(void **state)
{
	struct rig r = rig_of(entry_script);

	(void)state;
	assert_int_equal(lookup(&r, "/a b/50%?#\n\xff"), 0);
	assert_non_null(strstr(scripted_server_request(r.server[0], 0),
			       "GET /a%20b/50%25%3F%23%0A%FF?metadata=true HTTP/1.1\r\n"));
	rig_free(&r);
}

static void the_read_token_is_sent(void **state)
{
	const struct script_step *script = entry_script;
	struct token_source *tokens;
	struct rig r;
	unsigned line;

	(void)state;
	setenv("WEED_JWT_FILER_SIGNING_READ_KEY", "secret", 1);
	assert_int_equal(token_source_new(NULL, &line, &tokens), 0);
	unsetenv("WEED_JWT_FILER_SIGNING_READ_KEY");
	r = rig_new(&script, 1, NULL, tokens);
	assert_int_equal(lookup(&r, "/d/f"), 0);
	assert_non_null(
		strstr(scripted_server_request(r.server[0], 0), "\r\nAuthorization: Bearer ey"));
	rig_free(&r);
	token_source_free(tokens);
}

static void final_answers_are_not_retried(void **state)
{
	static const struct script_step missing[] = { RECEIVE(), SEND(STATUS_HEAD("404")),
						      CLOSE() };
	static const struct script_step no_token[] = { RECEIVE(), SEND(STATUS_HEAD("401")),
						       CLOSE() };
	static const struct script_step refused[] = { RECEIVE(), SEND(STATUS_HEAD("403")),
						      CLOSE() };

	(void)state;
	assert_int_equal(lookup_error(missing), -ENOENT);
	assert_int_equal(lookup_error(no_token), -EACCES);
	assert_int_equal(lookup_error(refused), -EACCES);
}

static void what_is_no_filer_is_told_at_once(void **state)
{
	static const struct script_step html[] = {
		RECEIVE(), SEND("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html>"), CLOSE()
	};
	static const struct script_step other[] = { RECEIVE(), SEND(JSON_HEAD "{\"a\":1}"),
						    CLOSE() };
	static const struct script_step redirect[] = { RECEIVE(), SEND(STATUS_HEAD("302")),
						       CLOSE() };
	static const struct script_step ssh[] = { RECEIVE(), SEND("SSH-2.0-x\r\n"), CLOSE() };

	(void)state;
	assert_int_equal(lookup_error(html), -EPROTO);
	assert_int_equal(lookup_error(other), -EPROTO);
	assert_int_equal(lookup_error(redirect), -EPROTO);
	assert_int_equal(lookup_error(ssh), -EPROTO);
}

static void an_empty_answer_without_grpc_is_an_error(void **state)
{
	static const struct script_step empty[] = { RECEIVE(), SEND(OK_EMPTY), CLOSE() };
	struct page p = { 0 };

	(void)state;
	assert_int_equal(lookup_error(empty), -EPROTO);
	assert_int_equal(list_script(empty, &p), -EPROTO);
}

static void a_failing_filer_is_asked_again(void **state)
{
	static const struct script_step failing[] = { RECEIVE(), SEND(STATUS_HEAD("500")),
						      CLOSE() };
	static const struct script_step cut[] = {
		RECEIVE(),
		SEND("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: "
		     "9\r\n\r\n{"),
		CLOSE()
	};
	const struct script_step *const scripts[] = { failing, failing, entry_script };
	const struct script_step *const cuts[] = { cut, entry_script };
	struct rig r = rig_new(scripts, 3, NULL, NULL);

	(void)state;
	assert_int_equal(lookup(&r, "/d/f"), 0);
	assert_int_equal(scripted_server_requests(r.server[0]), 3);
	rig_free(&r);
	r = rig_new(cuts, 2, NULL, NULL);
	assert_int_equal(lookup(&r, "/d/f"), 0);
	rig_free(&r);
}

static void a_second_filer_takes_over_and_is_kept(void **state)
{
	static const struct script_step dead[] = { RESET() };
	const struct script_step *a = dead;
	struct rig r = rig_new(&a, 1, entry_script, NULL);
	size_t connections;

	(void)state;
	assert_int_equal(lookup(&r, "/d/f"), 0);
	assert_int_equal(filer_current(r.filer), 1);
	assert_string_equal(filer_current_url(r.filer), scripted_server_url(r.server[1]));
	connections = scripted_server_connections(r.server[0]);
	assert_int_equal(lookup(&r, "/d/f"), 0);
	assert_int_equal(scripted_server_connections(r.server[0]), connections);
	rig_free(&r);
}

static void only_the_present_filer_can_fail(void **state)
{
	const struct script_step *a = entry_script;
	struct rig r = rig_new(&a, 1, entry_script, NULL);

	(void)state;
	filer_failed(r.filer, 1);
	assert_int_equal(filer_current(r.filer), 0);
	filer_failed(r.filer, 0);
	assert_int_equal(filer_current(r.filer), 1);
	filer_failed(r.filer, 0);
	assert_int_equal(filer_current(r.filer), 1);
	rig_free(&r);
}

static void dead_filers_end_with_the_deadline(void **state)
{
	static const struct script_step silent[] = { RECEIVE(), HANG(), CLOSE() };
	struct rig r = rig_of(silent);
	struct entry *e;
	int64_t start_ms = now_ms();

	(void)state;
	assert_int_equal(filer_lookup(r.filer, "/d/f", deadline_in_ms(300), &e), -ETIMEDOUT);
	assert_true(now_ms() - start_ms < 300 + WAIT_MS);
	rig_free(&r);
}

static void listings_ask_for_json_and_a_limit(void **state)
{
	static const struct script_step script[] = { RECEIVE(),
						     SEND(JSON_HEAD LIST(ENTRY("b c"), "true")),
						     CLOSE() };
	struct rig r = rig_of(script);
	struct page p = { 0 };

	(void)state;
	assert_int_equal(list(&r, "a&b", 10, &p), 0);
	assert_string_equal(p.names, "b c ");
	assert_true(p.more);
	assert_non_null(strstr(scripted_server_request(r.server[0], 0),
			       "GET /d/?limit=10&lastFileName=a%26b HTTP/1.1\r\n"));
	assert_non_null(strstr(scripted_server_request(r.server[0], 0),
			       "\r\nAccept: application/json\r\n"));
	rig_free(&r);
}

static void a_listing_that_breaks_off_goes_on_behind_the_last_name(void **state)
{
	static const struct script_step broken[] = {
		RECEIVE(),
		SEND("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: "
		     "9999\r\n\r\n"
		     "{\"Path\":\"/d\",\"Entries\":[" ENTRY("a") "," ENTRY("b") ",{\"Full"),
		CLOSE()
	};
	static const struct script_step rest[] = { RECEIVE(),
						   SEND(JSON_HEAD LIST(ENTRY("c"), "false")),
						   CLOSE() };
	const struct script_step *const scripts[] = { broken, rest };
	struct rig r = rig_new(scripts, 2, NULL, NULL);
	struct page p = { 0 };

	(void)state;
	assert_int_equal(list(&r, "", 10, &p), 0);
	assert_string_equal(p.names, "a b c ");
	assert_false(p.more);
	assert_non_null(strstr(scripted_server_request(r.server[0], 1), "limit=8&lastFileName=b "));
	rig_free(&r);
}

static void the_data_of_a_file_is_no_listing(void **state)
{
	static const struct script_step script[] = {
		RECEIVE(),
		SEND("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nETag: "
		     "\"12\"\r\n\r\n" LIST(ENTRY("a"), "false")),
		CLOSE()
	};
	struct page p = { 0 };

	(void)state;
	assert_int_equal(list_script(script, &p), -ENOTDIR);
	assert_int_equal(p.n, 0);
}

static void hostile_names_are_left_out_and_counted(void **state)
{
	static const struct script_step script[] = {
		RECEIVE(),
		SEND(JSON_HEAD LIST(ENTRY("") "," ENTRY(".") "," ENTRY("..") "," ENTRY("ok"),
				    "false")),
		CLOSE()
	};
	struct rig r = rig_of(script);
	struct page p = { 0 };

	(void)state;
	assert_int_equal(list(&r, "", 10, &p), 0);
	assert_string_equal(p.names, "ok ");
	assert_int_equal(filer_names_refused(r.filer), 3);
	rig_free(&r);
}

static void entries_that_do_not_decode_are_named(void **state)
{
	static const struct script_step script[] = {
		RECEIVE(),
		SEND(JSON_HEAD LIST(ENTRY("a") ",{\"FullPath\":\"/d/bad\",\"Mode\":-1}," ENTRY("c"),
				    "false")),
		CLOSE()
	};
	struct page p = { 0 };

	(void)state;
	assert_int_equal(list_script(script, &p), 0);
	assert_string_equal(p.names, "a bad! c ");
}

static void more_entries_than_asked_for_are_an_error(void **state)
{
	static const struct script_step script[] = {
		RECEIVE(), SEND(JSON_HEAD LIST(ENTRY("a") "," ENTRY("b"), "false")), CLOSE()
	};
	struct rig r = rig_of(script);
	struct page p = { 0 };

	(void)state;
	assert_int_equal(list(&r, "", 1, &p), -EPROTO);
	assert_int_equal(p.n, 1);
	rig_free(&r);
}

static void a_listing_that_gets_nowhere_is_an_error(void **state)
{
	static const struct script_step none[] = { RECEIVE(), SEND(JSON_HEAD LIST("", "true")),
						   CLOSE() };
	static const struct script_step same[] = { RECEIVE(),
						   SEND(JSON_HEAD LIST(ENTRY("a"), "true")),
						   CLOSE() };
	struct page p = { 0 };
	struct rig r;

	(void)state;
	assert_int_equal(list_script(none, &p), -EPROTO);
	r = rig_of(same);
	assert_int_equal(list(&r, "a", 10, &p), -EPROTO);
	rig_free(&r);
}

static void the_callback_can_end_a_listing(void **state)
{
	static const struct script_step script[] = {
		RECEIVE(), SEND(JSON_HEAD LIST(ENTRY("a") "," ENTRY("b"), "false")), CLOSE()
	};
	struct rig r = rig_of(script);
	struct page p = { .stop_with = -EIO };

	(void)state;
	assert_int_equal(list(&r, "", 10, &p), -EIO);
	assert_string_equal(p.names, "a ");
	assert_int_equal(scripted_server_requests(r.server[0]), 1);
	rig_free(&r);
}

static int read_script(const struct script_step *script, const char *if_match, size_t *ret_got)
{
	struct rig r = rig_of(script);
	char buf[4] = "";
	int err = filer_read(r.filer, "/d/f", if_match, 5, buf, sizeof(buf), deadline_in_ms(1500),
			     ret_got);

	assert_non_null(
		strstr(scripted_server_request(r.server[0], 0), "\r\nRange: bytes=5-8\r\n"));
	if (if_match)
		assert_non_null(
			strstr(scripted_server_request(r.server[0], 0), "\r\nIf-Match: \"e\"\r\n"));
	if (!err && *ret_got > 0)
		assert_memory_equal(buf, "data", *ret_got);
	rig_free(&r);
	return err;
}

#define PARTIAL(range, body)                                                                       \
	"HTTP/1.1 206 OK\r\nConnection: close\r\nContent-Range: bytes " range "\r\n\r\n" body

static void ranges_are_read(void **state)
{
	static const struct script_step whole[] = { RECEIVE(), SEND(PARTIAL("5-8/99", "data")),
						    CLOSE() };
	static const struct script_step end[] = { RECEIVE(), SEND(PARTIAL("5-6/7", "da")),
						  CLOSE() };
	static const struct script_step behind[] = { RECEIVE(), SEND(STATUS_HEAD("416")), CLOSE() };
	size_t got = 77;

	(void)state;
	assert_int_equal(read_script(whole, "e", &got), 0);
	assert_int_equal(got, 4);
	assert_int_equal(read_script(end, NULL, &got), 0);
	assert_int_equal(got, 2);
	assert_int_equal(read_script(behind, NULL, &got), 0);
	assert_int_equal(got, 0);
}

static void another_version_is_stale(void **state)
{
	static const struct script_step script[] = { RECEIVE(), SEND(STATUS_HEAD("412")), CLOSE() };
	size_t got;

	(void)state;
	assert_int_equal(read_script(script, "e", &got), -ESTALE);
}

static void answers_to_another_range_are_refused(void **state)
{
	static const struct script_step other[] = { RECEIVE(), SEND(PARTIAL("4-7/99", "data")),
						    CLOSE() };
	static const struct script_step longer[] = { RECEIVE(), SEND(PARTIAL("5-9/99", "data!")),
						     CLOSE() };
	static const struct script_step whole[] = { RECEIVE(), SEND(JSON_HEAD "data"), CLOSE() };
	static const struct script_step empty[] = { RECEIVE(), SEND(OK_EMPTY), CLOSE() };
	static const struct script_step cut[] = { RECEIVE(), SEND(PARTIAL("5-8/99", "da")),
						  CLOSE() };
	size_t got;

	(void)state;
	assert_int_equal(read_script(other, NULL, &got), -EPROTO);
	assert_int_equal(read_script(longer, NULL, &got), -EPROTO);
	assert_int_equal(read_script(whole, NULL, &got), -EPROTO);
	assert_int_equal(read_script(empty, NULL, &got), -EPROTO);
	assert_int_equal(read_script(cut, NULL, &got), -EIO);
}

static void without_grpc_there_are_no_masters(void **state)
{
	struct rig r = rig_of(entry_script);
	struct filer_capacity capacity;
	struct endpoint masters[4];
	size_t n;

	(void)state;
	assert_int_equal(filer_masters(r.filer, deadline_in_ms(WAIT_MS), NULL, masters, 4, &n),
			 -ENXIO);
	assert_int_equal(filer_statistics(r.filer, deadline_in_ms(WAIT_MS), &capacity), -ENXIO);
	rig_free(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(paths_are_encoded),
		cmocka_unit_test(the_read_token_is_sent),
		cmocka_unit_test(final_answers_are_not_retried),
		cmocka_unit_test(what_is_no_filer_is_told_at_once),
		cmocka_unit_test(an_empty_answer_without_grpc_is_an_error),
		cmocka_unit_test(a_failing_filer_is_asked_again),
		cmocka_unit_test(a_second_filer_takes_over_and_is_kept),
		cmocka_unit_test(only_the_present_filer_can_fail),
		cmocka_unit_test(dead_filers_end_with_the_deadline),
		cmocka_unit_test(listings_ask_for_json_and_a_limit),
		cmocka_unit_test(a_listing_that_breaks_off_goes_on_behind_the_last_name),
		cmocka_unit_test(the_data_of_a_file_is_no_listing),
		cmocka_unit_test(hostile_names_are_left_out_and_counted),
		cmocka_unit_test(entries_that_do_not_decode_are_named),
		cmocka_unit_test(more_entries_than_asked_for_are_an_error),
		cmocka_unit_test(a_listing_that_gets_nowhere_is_an_error),
		cmocka_unit_test(the_callback_can_end_a_listing),
		cmocka_unit_test(ranges_are_read),
		cmocka_unit_test(another_version_is_stale),
		cmocka_unit_test(answers_to_another_range_are_refused),
		cmocka_unit_test(without_grpc_there_are_no_masters),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
