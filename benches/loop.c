// SPDX-License-Identifier: Apache-2.0
// The service of glib.c, as close to the system calls as possible with glib's main loop:
// descriptors in the loop, plain reads and writes, no streams.
//
// `cargo bench` also shows this program, because the target is relative to glib.c, and C can do
// better than that.

#include <glib-unix.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

struct client {
    size_t length;
    char input[1024];
};

static guint64 counter;

static gboolean tick(gpointer unused) {
    (void)unused;
    g_printerr("%" G_GUINT64_FORMAT "\n", counter++);
    return G_SOURCE_CONTINUE;
}

static gboolean serve(gint fd, GIOCondition condition, gpointer data) {
    (void)condition;
    struct client *client = data;
    char *input = client->input, *end;
    ssize_t count = read(fd, input + client->length, sizeof client->input - client->length);
    if (count <= 0) {
        close(fd);
        return G_SOURCE_REMOVE;
    }
    char replies[4096];
    size_t length = 0, left = client->length + count;
    while ((end = memchr(input, '\n', left))) {
        size_t line = end - input;
        gboolean is_known = line == 11 && !memcmp(input, "get_counter", line);
        if (is_known)
            length += sprintf(replies + length, "%" G_GUINT64_FORMAT "\n", counter);
        else
            length += sprintf(replies + length, "?\n");
        left -= line + 1;
        input = end + 1;
    }
    memmove(client->input, input, left);
    client->length = left;
    gboolean is_sent = !length || write(fd, replies, length) == (ssize_t)length;
    if (is_sent && left < sizeof client->input)
        return G_SOURCE_CONTINUE;
    close(fd);
    return G_SOURCE_REMOVE;
}

static gboolean greet(gint listener, GIOCondition condition, gpointer unused) {
    (void)condition, (void)unused;
    int fd = accept(listener, NULL, NULL);
    if (fd >= 0)
        g_unix_fd_add_full(G_PRIORITY_DEFAULT, fd, G_IO_IN, serve, g_new0(struct client, 1), g_free);
    return G_SOURCE_CONTINUE;
}

int main(int argc, char **argv) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (argc != 2 || strlen(argv[1]) >= sizeof address.sun_path)
        return 2;
    strcpy(address.sun_path, argv[1]);
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) ||
        listen(listener, SOMAXCONN)) {
        perror(argv[1]);
        return 1;
    }
    g_unix_fd_add(listener, G_IO_IN, greet, NULL);
    g_timeout_add(100, tick, NULL);
    g_main_loop_run(g_main_loop_new(NULL, FALSE));
}
