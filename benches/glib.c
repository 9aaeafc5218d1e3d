// SPDX-License-Identifier: Apache-2.0
// The same service in the style of glib's documentation: a counter that ticks every 100 ms and logs
// each number, and clients on a UNIX socket that ask for it, with GIO's streams on glib's main
// loop.
//
// `cargo bench` compares the daemon with it. It has no state file, no handoff, no limits and no
// journal. It keeps a line that is cut by a read, and sends all replies to one read in one write.

#include <gio/gio.h>
#include <gio/gunixsocketaddress.h>
#include <stdio.h>
#include <string.h>

struct client {
    GSocketConnection *connection;
    size_t length;
    char input[1024];
    char replies[4096];
};

static guint64 counter;

static void receive(struct client *client);

static void leave(struct client *client) {
    g_object_unref(client->connection);
    g_free(client);
}

static gboolean tick(gpointer unused) {
    (void)unused;
    g_message("%" G_GUINT64_FORMAT, counter++);
    return G_SOURCE_CONTINUE;
}

/* Executes all whole lines; returns the length of their replies. */
static size_t carry_out(struct client *client) {
    char *line = client->input, *end;
    size_t length = 0, left = client->length;
    while ((end = memchr(line, '\n', left))) {
        *end = '\0';
        if (g_str_equal(line, "get_counter"))
            length += sprintf(client->replies + length, "%" G_GUINT64_FORMAT "\n", counter);
        else
            length += sprintf(client->replies + length, "?\n");
        left -= end + 1 - line;
        line = end + 1;
    }
    memmove(client->input, line, left);
    client->length = left;
    return length;
}

static void sent(GObject *stream, GAsyncResult *result, gpointer data) {
    if (g_output_stream_write_all_finish(G_OUTPUT_STREAM(stream), result, NULL, NULL))
        receive(data);
    else
        leave(data);
}

static void received(GObject *stream, GAsyncResult *result, gpointer data) {
    struct client *client = data;
    gssize count = g_input_stream_read_finish(G_INPUT_STREAM(stream), result, NULL);
    if (count <= 0) {
        leave(client);
        return;
    }
    client->length += count;
    size_t length = carry_out(client);
    GOutputStream *replies = g_io_stream_get_output_stream(G_IO_STREAM(client->connection));
    if (length)
        g_output_stream_write_all_async(replies, client->replies, length, G_PRIORITY_DEFAULT, NULL,
                                        sent, client);
    else if (client->length < sizeof client->input)
        receive(client);
    else
        leave(client);
}

static void receive(struct client *client) {
    GInputStream *commands = g_io_stream_get_input_stream(G_IO_STREAM(client->connection));
    g_input_stream_read_async(commands, client->input + client->length,
                              sizeof client->input - client->length, G_PRIORITY_DEFAULT, NULL,
                              received, client);
}

static gboolean greet(GSocketService *service, GSocketConnection *connection, GObject *source,
                      gpointer unused) {
    (void)service, (void)source, (void)unused;
    struct client *client = g_new0(struct client, 1);
    client->connection = g_object_ref(connection);
    receive(client);
    return FALSE;
}

int main(int argc, char **argv) {
    if (argc != 2)
        return 2;
    GError *error = NULL;
    GSocketService *service = g_socket_service_new();
    GSocketAddress *address = g_unix_socket_address_new(argv[1]);
    if (!g_socket_listener_add_address(G_SOCKET_LISTENER(service), address, G_SOCKET_TYPE_STREAM,
                                       G_SOCKET_PROTOCOL_DEFAULT, NULL, NULL, &error)) {
        fprintf(stderr, "%s\n", error->message);
        return 1;
    }
    g_signal_connect(service, "incoming", G_CALLBACK(greet), NULL);
    g_timeout_add(100, tick, NULL);
    g_main_loop_run(g_main_loop_new(NULL, FALSE));
}
