/* A latency in front of an HTTP server, at the speed of the kernel, which also counts what passes.
 *
 *   delay_proxy LISTEN_PORT HOST PORT MILLISECONDS COUNTERS
 *
 * Listens on loopback (LISTEN_PORT 0: a free port), prints the port, and hands every connection on to HOST:PORT.
 * The first bytes of each request wait for MILLISECONDS; the rest of it and its answer pass at once. An interim
 * answer ("100 Continue") does not make what follows another request. Ends with SIGTERM or with its parent.
 *
 * COUNTERS is a file of four native 64-bit numbers, kept up to date: connections, requests, bytes to the server,
 * bytes from the server. So a benchmark sees what each client really asked for, whatever that client says.
 *
 * splice(2) moves the bytes, they are never copied into this process: on the two cores that the clients and the
 * server share, a proxy that copies would be what is measured. netem would cost less still, but not every kernel has it.
 */
#define _GNU_SOURCE

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { PIPE_SIZE = 1 << 20, EVENTS = 64, BACKLOG = 512 };
/* So many pipes full, then it is another connection's turn. */
enum { TURNS = 4 };

struct counters {
	uint64_t connections, requests, to_server, from_server;
};

/* One direction of a connection: what was taken from `from` and not yet given to `to` lies in the pipe. */
struct flow {
	int from, to, pipe[2];
	size_t held;
	bool ended;
	uint64_t *counter;
};

enum state {
	QUIET,   /* the next bytes of the client are a new request */
	WAITING, /* they are there, and due at `due` */
	ASKING   /* the request passes; the first bytes of the server are its answer */
};

struct connection {
	struct flow up, down;
	enum state state;
	uint64_t due;
	bool more, dead;
	struct connection *next;
};

static struct connection *connections;
static struct counters *counters;
static uint64_t delay_ns;

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Move what can be moved without waiting. Return false when the connection is broken. */
static bool move(struct flow *flow, bool *more)
{
	for (int turn = 0; turn < TURNS || flow->held > 0; turn++) {
		bool drain = flow->held > 0;
		ssize_t count = drain ? splice(flow->pipe[0], NULL, flow->to, NULL, flow->held, SPLICE_F_MOVE | SPLICE_F_NONBLOCK)
				      : splice(flow->from, NULL, flow->pipe[1], NULL, PIPE_SIZE, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);

		if (count < 0)
			return errno == EAGAIN || errno == EINTR;
		if (drain) {
			flow->held -= (size_t)count;
		} else if (count == 0) {
			flow->ended = true;
			shutdown(flow->to, SHUT_WR);
			return true;
		} else {
			flow->held = (size_t)count;
			*flow->counter += (uint64_t)count;
		}
	}
	*more = true;
	return true;
}

/* Begin a request where the client has sent something. */
static void begin_request(struct connection *connection)
{
	char byte;

	if (recv(connection->up.from, &byte, 1, MSG_PEEK | MSG_DONTWAIT) != 1)
		return;
	counters->requests++;
	connection->due = now_ns() + delay_ns;
	connection->state = WAITING;
}

/* End the request where the server has begun to answer it. */
static void end_request(struct connection *connection)
{
	static const char interim[] = "HTTP/1.1 100";
	char start[sizeof interim - 1];
	ssize_t size = recv(connection->down.from, start, sizeof start, MSG_PEEK | MSG_DONTWAIT);

	if (size > 0 && !(size == sizeof start && memcmp(start, interim, sizeof start) == 0))
		connection->state = QUIET;
}

static bool at_end(const struct flow *flow)
{
	char byte;

	return recv(flow->from, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
}

static void pump(struct connection *connection)
{
	bool whole = true;

	connection->more = false;
	if (connection->state == QUIET)
		begin_request(connection);
	if (connection->state == WAITING && now_ns() >= connection->due)
		connection->state = ASKING;
	if (!connection->up.ended && (connection->state == ASKING || connection->up.held > 0 || at_end(&connection->up)))
		whole = move(&connection->up, &connection->more);
	if (connection->state == ASKING)
		end_request(connection);
	if (whole && !connection->down.ended)
		whole = move(&connection->down, &connection->more);
	if (!whole || (connection->up.ended && connection->down.ended))
		connection->dead = true;
}

static void close_flow(struct flow *flow)
{
	close(flow->from);
	close(flow->pipe[0]);
	close(flow->pipe[1]);
}

static void remove_dead(void)
{
	for (struct connection **place = &connections; *place != NULL;) {
		struct connection *connection = *place;

		if (!connection->dead) {
			place = &connection->next;
			continue;
		}
		*place = connection->next;
		close_flow(&connection->up);
		close_flow(&connection->down);
		free(connection);
	}
}

static void need(bool done, const char *what)
{
	if (!done) {
		perror(what);
		exit(1);
	}
}

static void watch(int epoll, int fd, struct connection *connection)
{
	/* Edges of both directions: each event moves all there is to move. */
	struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = connection};

	need(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0, "epoll_ctl");
}

static struct flow make_flow(int from, int to, uint64_t *counter)
{
	struct flow flow = {.from = from, .to = to, .counter = counter};

	need(pipe2(flow.pipe, O_NONBLOCK | O_CLOEXEC) == 0, "pipe2");
	(void)fcntl(flow.pipe[1], F_SETPIPE_SZ, PIPE_SIZE); /* a smaller pipe is slower, not wrong */
	return flow;
}

static void open_connection(int epoll, int client, const struct addrinfo *server)
{
	struct connection *connection = calloc(1, sizeof *connection);
	int fd = socket(server->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	int on = 1;

	need(connection != NULL && fd >= 0, "a new connection");
	setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	if (connect(fd, server->ai_addr, server->ai_addrlen) != 0 && errno != EINPROGRESS) {
		close(fd);
		close(client);
		free(connection);
		return;
	}
	counters->connections++;
	connection->up = make_flow(client, fd, &counters->to_server);
	connection->down = make_flow(fd, client, &counters->from_server);
	connection->next = connections;
	connections = connection;
	watch(epoll, client, connection);
	watch(epoll, fd, connection);
}

/* Return how long to sleep: not at all where there is more to move, else until the next request is due. */
static struct timespec *time_to_next(struct timespec *wait)
{
	uint64_t due = UINT64_MAX, now = now_ns();

	for (struct connection *connection = connections; connection != NULL; connection = connection->next) {
		if (connection->more)
			due = now;
		else if (connection->state == WAITING && connection->due < due)
			due = connection->due;
	}
	uint64_t left = due > now ? due - now : 0;
	*wait = (struct timespec){.tv_sec = (time_t)(left / 1000000000u), .tv_nsec = (long)(left % 1000000000u)};
	return due == UINT64_MAX ? NULL : wait;
}

static void serve(int listener, const struct addrinfo *server)
{
	int epoll = epoll_create1(EPOLL_CLOEXEC);
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL}, events[EVENTS];
	struct timespec wait;

	need(epoll >= 0 && epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event) == 0, "epoll");
	for (;;) {
		int count = epoll_pwait2(epoll, events, EVENTS, time_to_next(&wait), NULL);

		need(count >= 0 || errno == EINTR, "epoll_pwait2");
		for (int i = 0; i < count; i++) {
			struct connection *connection = events[i].data.ptr;

			if (connection != NULL)
				connection->more = true;
		}
		uint64_t now = now_ns();
		for (struct connection *each = connections; each != NULL; each = each->next)
			if (each->more || (each->state == WAITING && now >= each->due))
				pump(each);
		remove_dead();
		int client = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (client >= 0)
			open_connection(epoll, client, server);
	}
}

static int listen_on(const char *port)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t size = sizeof address;
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;

	address.sin_port = htons((uint16_t)atoi(port));
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	need(bind(listener, (struct sockaddr *)&address, sizeof address) == 0 && listen(listener, BACKLOG) == 0, "listen");
	getsockname(listener, (struct sockaddr *)&address, &size);
	printf("%d\n", ntohs(address.sin_port));
	fflush(stdout);
	return listener;
}

static struct counters *open_counters(const char *path)
{
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);

	need(fd >= 0 && ftruncate(fd, sizeof(struct counters)) == 0, path);
	void *memory = mmap(NULL, sizeof(struct counters), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	need(memory != MAP_FAILED, path);
	close(fd);
	return memory;
}

int main(int argc, char **argv)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *server;

	if (argc != 6) {
		fprintf(stderr, "usage: delay_proxy LISTEN_PORT HOST PORT MILLISECONDS COUNTERS\n");
		return 2;
	}
	int problem = getaddrinfo(argv[2], argv[3], &hints, &server);
	if (problem != 0) {
		fprintf(stderr, "delay_proxy: %s: %s\n", argv[2], gai_strerror(problem));
		return 1;
	}
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	signal(SIGPIPE, SIG_IGN);
	delay_ns = (uint64_t)(atof(argv[4]) * 1e6);
	counters = open_counters(argv[5]);
	serve(listen_on(argv[1]), server);
}
