/* What change events say of names. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "filer.pb-c.h"
#include "filer/changes.h"

#define S INT64_C(1000000000)
#define EVENT_AT (100 * S)
#define SETTLED (EVENT_AT + CHANGES_SETTLE_NS + 1)

/* Takes an event; NULL: no such entry, or the same directory. */
static void event(struct changes *c, const char *dir, const char *was, const char *is,
		  const char *to, bool directory)
{
	FilerPb__SubscribeMetadataResponse r = FILER_PB__SUBSCRIBE_METADATA_RESPONSE__INIT;
	FilerPb__EventNotification n = FILER_PB__EVENT_NOTIFICATION__INIT;
	FilerPb__EventEntry entries[2] = { FILER_PB__EVENT_ENTRY__INIT,
					   FILER_PB__EVENT_ENTRY__INIT };
	const char *names[2] = { was, is };
	FilerPb__EventEntry **places[2] = { &n.old_entry, &n.new_entry };
	uint8_t message[512];
	int64_t filer_ns = 1;

	r.directory = (ProtobufCBinaryData){ strlen(dir), (uint8_t *)dir };
	r.ts_ns = 77;
	r.event_notification = &n;
	if (to)
		n.new_parent_path = (ProtobufCBinaryData){ strlen(to), (uint8_t *)to };
	for (size_t i = 0; i < 2; i++) {
		if (!names[i])
			continue;
		entries[i].name = (ProtobufCBinaryData){ strlen(names[i]), (uint8_t *)names[i] };
		entries[i].is_directory = directory;
		*places[i] = &entries[i];
	}
	size_t len = filer_pb__subscribe_metadata_response__pack(&r, message);
	assert_int_equal(changes_take(c, message, len, EVENT_AT, &filer_ns), 0);
	assert_int_equal(filer_ns, 0);
}

static struct changes *new_changes(void)
{
	struct changes *c;

	assert_int_equal(changes_new(&c), 0);
	return c;
}

/* What was asked for before the event, or right after it, is of no value; later it is. */
static void assert_changed(struct changes *c, const char *path)
{
	assert_false(changes_none(c, path, EVENT_AT - S));
	assert_false(changes_none(c, path, EVENT_AT + 1));
	assert_true(changes_none(c, path, SETTLED));
}

static void assert_unchanged(struct changes *c, const char *path)
{
	assert_true(changes_none(c, path, EVENT_AT - S));
}

static void an_update_changes_its_name_only(void **state)
{
	struct changes *c = new_changes();

	(void)state;
	event(c, "/d", "f", "f", NULL, false);
	assert_changed(c, "/d/f");
	assert_unchanged(c, "/d/g");
	assert_unchanged(c, "/d");
	assert_unchanged(c, "/f");
	changes_free(c);
}

static void names_in_the_root_have_one_slash(void **state)
{
	struct changes *c = new_changes();

	(void)state;
	event(c, "/", NULL, "f", NULL, false);
	assert_changed(c, "/f");
	changes_free(c);
}

static void a_deletion_changes_its_name(void **state)
{
	struct changes *c = new_changes();

	(void)state;
	event(c, "/d", "f", NULL, NULL, false);
	assert_changed(c, "/d/f");
	changes_free(c);
}

static void a_rename_changes_both_names(void **state)
{
	struct changes *c = new_changes();

	(void)state;
	event(c, "/d", "f", "g", "/e", false);
	assert_changed(c, "/d/f");
	assert_changed(c, "/e/g");
	assert_unchanged(c, "/d/g");
	changes_free(c);
}

static void a_directory_that_is_deleted_or_moved_changes_everything(void **state)
{
	(void)state;
	for (int i = 0; i < 3; i++) {
		struct changes *c = new_changes();

		if (i == 0)
			event(c, "/", "d", NULL, NULL, true);
		else if (i == 1)
			event(c, "/", "d", "e", NULL, true);
		else
			event(c, "/", "d", "d", "/x", true);
		assert_changed(c, "/d/f");
		assert_changed(c, "/elsewhere");
		changes_free(c);
	}
}

static void a_directory_that_is_made_or_updated_changes_its_name_only(void **state)
{
	struct changes *c = new_changes();

	(void)state;
	event(c, "/", NULL, "d", NULL, true);
	event(c, "/", "d", "d", "/", true);
	assert_changed(c, "/d");
	assert_unchanged(c, "/d/f");
	changes_free(c);
}

static void a_message_without_an_event_tells_the_filers_time(void **state)
{
	FilerPb__SubscribeMetadataResponse r = FILER_PB__SUBSCRIBE_METADATA_RESPONSE__INIT;
	struct changes *c = new_changes();
	uint8_t message[64];
	int64_t filer_ns = 0;

	(void)state;
	r.ts_ns = 42;
	size_t len = filer_pb__subscribe_metadata_response__pack(&r, message);
	assert_int_equal(changes_take(c, message, len, EVENT_AT, &filer_ns), 0);
	assert_int_equal(filer_ns, 42);
	assert_unchanged(c, "/d/f");
	changes_free(c);
}

static void what_is_no_message_is_refused(void **state)
{
	static const uint8_t torn[] = { 0x0a, 0x05, '/' };
	struct changes *c = new_changes();
	int64_t filer_ns = 5;

	(void)state;
	assert_int_equal(changes_take(c, torn, sizeof(torn), EVENT_AT, &filer_ns), -EPROTO);
	assert_int_equal(filer_ns, 5);
	changes_free(c);
}

static void forgetting_makes_everything_changed_until_then(void **state)
{
	struct changes *c = new_changes();

	(void)state;
	changes_forget(c, EVENT_AT);
	changes_forget(c, EVENT_AT - 5 * S);
	assert_false(changes_none(c, "/d/f", EVENT_AT));
	assert_true(changes_none(c, "/d/f", EVENT_AT + 1));
	changes_free(c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_update_changes_its_name_only),
		cmocka_unit_test(names_in_the_root_have_one_slash),
		cmocka_unit_test(a_deletion_changes_its_name),
		cmocka_unit_test(a_rename_changes_both_names),
		cmocka_unit_test(a_directory_that_is_deleted_or_moved_changes_everything),
		cmocka_unit_test(a_directory_that_is_made_or_updated_changes_its_name_only),
		cmocka_unit_test(a_message_without_an_event_tells_the_filers_time),
		cmocka_unit_test(what_is_no_message_is_refused),
		cmocka_unit_test(forgetting_makes_everything_changed_until_then),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
