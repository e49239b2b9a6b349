/* The measure that dasfs is held against: a file system in C that answers from memory.
 *
 *   fuse_memory [-s] [-x] MOUNTPOINT COUNT SIZE
 *
 * One directory with COUNT files of SIZE bytes, named 00000000000000000000.bin and so on. Runs in the foreground
 * until it is unmounted or gets SIGTERM or SIGINT.
 *
 *   -s  one thread; without it libfuse's own loop with many threads
 *   -x  answer getxattr with "no such attribute" each time. Without it the kernel is told once that there are no
 *       attributes and stops asking, which a file system that has attributes can't do. Tells for `ls -l`.
 *
 * What makes it fast is what dasfs does too: attributes and names may be cached for ever, pages are kept between
 * opens, and flush is not implemented, which libfuse answers with ENOSYS and the kernel then never sends again.
 * Contents lie in a pool of at most 256 MiB that the files share by turns: larger than the processor's caches, so a
 * read costs a copy out of memory, as it costs a file system that reads from the page cache.
 */
#define FUSE_USE_VERSION 34
#define _GNU_SOURCE

#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { DIGITS = 20, NAME_LENGTH = DIGITS + 4 };
enum { FIRST_FILE = FUSE_ROOT_ID + 1 }; /* file k is inode k + 2 */
static const double FOR_EVER_S = 86400.0;
static const size_t MAX_POOL = (size_t)256 << 20;
static const size_t MAX_SIZE = (size_t)1 << 30; /* a slip in SIZE shall not take the machine's memory */

static uint64_t file_count;
static size_t file_size;
static char *pool;
static size_t pool_files; /* file k's content is piece k % pool_files of the pool */

static bool is_file(fuse_ino_t inode)
{
	return inode >= FIRST_FILE && inode - FIRST_FILE < file_count;
}

static struct stat attributes(fuse_ino_t inode)
{
	struct stat stat = {.st_ino = inode, .st_uid = getuid(), .st_gid = getgid(), .st_blksize = 4096};

	if (inode == FUSE_ROOT_ID) {
		stat.st_mode = S_IFDIR | 0555;
		stat.st_nlink = 2;
	} else {
		stat.st_mode = S_IFREG | 0444;
		stat.st_nlink = 1;
		stat.st_size = (off_t)file_size;
		stat.st_blocks = (blkcnt_t)((file_size + 511) / 512);
	}
	return stat;
}

static struct fuse_entry_param entry(fuse_ino_t inode)
{
	return (struct fuse_entry_param){
	    .ino = inode, .attr = attributes(inode), .attr_timeout = FOR_EVER_S, .entry_timeout = FOR_EVER_S};
}

/* Return the inode that `name` stands for, or 0. */
static fuse_ino_t find(const char *name)
{
	uint64_t number = 0;

	if (strlen(name) != NAME_LENGTH || strcmp(name + DIGITS, ".bin") != 0)
		return 0;
	for (int i = 0; i < DIGITS; i++) {
		if (name[i] < '0' || name[i] > '9' || number >= file_count)
			return 0;
		number = number * 10 + (uint64_t)(name[i] - '0');
	}
	return number < file_count ? FIRST_FILE + number : 0;
}

static void do_init(void *data, struct fuse_conn_info *connection)
{
	(void)data;
	/* Always readdirplus; the kernel's own choice would answer `ls -f` without attributes. */
	connection->want |= connection->capable & FUSE_CAP_READDIRPLUS;
	connection->want &= ~(unsigned)FUSE_CAP_READDIRPLUS_AUTO;
}

static void do_lookup(fuse_req_t request, fuse_ino_t parent, const char *name)
{
	fuse_ino_t inode = parent == FUSE_ROOT_ID ? find(name) : 0;
	struct fuse_entry_param found = entry(inode);

	if (inode == 0)
		fuse_reply_err(request, ENOENT);
	else
		fuse_reply_entry(request, &found);
}

static void do_getattr(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *info)
{
	struct stat stat = attributes(inode);

	(void)info;
	if (inode != FUSE_ROOT_ID && !is_file(inode))
		fuse_reply_err(request, ENOENT);
	else
		fuse_reply_attr(request, &stat, FOR_EVER_S);
}

static void do_open(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *info)
{
	if (!is_file(inode)) {
		fuse_reply_err(request, EISDIR);
	} else if ((info->flags & O_ACCMODE) != O_RDONLY) {
		fuse_reply_err(request, EROFS);
	} else {
		info->keep_cache = 1;
		fuse_reply_open(request, info);
	}
}

static void do_read(fuse_req_t request, fuse_ino_t inode, size_t size, off_t offset, struct fuse_file_info *info)
{
	size_t start = (size_t)offset < file_size ? (size_t)offset : file_size;
	size_t left = file_size - start;

	const char *content = pool + (inode - FIRST_FILE) % pool_files * file_size;

	(void)info;
	fuse_reply_buf(request, content + start, size < left ? size : left);
}

static void do_readdirplus(fuse_req_t request, fuse_ino_t inode, size_t size, off_t offset, struct fuse_file_info *info)
{
	char *buffer = malloc(size);
	size_t used = 0;

	(void)info;
	if (inode != FUSE_ROOT_ID || buffer == NULL) {
		free(buffer);
		fuse_reply_err(request, inode != FUSE_ROOT_ID ? ENOTDIR : ENOMEM);
		return;
	}
	for (uint64_t number = (uint64_t)offset; number < file_count; number++) {
		char name[NAME_LENGTH + 1];
		struct fuse_entry_param file = entry(FIRST_FILE + number);

		snprintf(name, sizeof name, "%020llu.bin", (unsigned long long)number);
		size_t need = fuse_add_direntry_plus(request, buffer + used, size - used, name, &file, (off_t)number + 1);
		if (need > size - used)
			break;
		used += need;
	}
	fuse_reply_buf(request, buffer, used);
	free(buffer);
}

static void do_getxattr(fuse_req_t request, fuse_ino_t inode, const char *name, size_t size)
{
	(void)inode;
	(void)name;
	(void)size;
	fuse_reply_err(request, ENODATA);
}

static int serve(const char *program, const char *mountpoint, bool one_thread, bool attributes_asked)
{
	struct fuse_lowlevel_ops operations = {
	    .init = do_init,
	    .lookup = do_lookup,
	    .getattr = do_getattr,
	    .open = do_open,
	    .read = do_read,
	    .readdirplus = do_readdirplus,
	    .getxattr = attributes_asked ? do_getxattr : NULL,
	};
	char *words[] = {(char *)program, "-o", "ro,fsname=fuse_memory,subtype=memory", NULL};
	struct fuse_args arguments = FUSE_ARGS_INIT(3, words);
	struct fuse_loop_config loop = {.clone_fd = 0, .max_idle_threads = 10}; /* libfuse's own defaults */
	struct fuse_session *session = fuse_session_new(&arguments, &operations, sizeof operations, NULL);
	int status = 1;

	if (session == NULL)
		return status;
	if (fuse_set_signal_handlers(session) == 0) {
		if (fuse_session_mount(session, mountpoint) == 0) {
			int ended = one_thread ? fuse_session_loop(session) : fuse_session_loop_mt(session, &loop);
			status = ended < 0; /* above zero: ended by that signal, as asked */
			fuse_session_unmount(session);
		}
		fuse_remove_signal_handlers(session);
	}
	fuse_session_destroy(session);
	fuse_opt_free_args(&arguments);
	return status;
}

static bool fill_pool(void)
{
	pool_files = file_size > 0 ? MAX_POOL / file_size : 1;
	if (pool_files > file_count)
		pool_files = file_count;
	if (pool_files == 0)
		pool_files = 1;
	size_t size = pool_files * file_size;
	pool = malloc(size + 1);
	for (size_t i = 0; pool != NULL && i < size; i++)
		pool[i] = (char)(i * 131 >> 3);
	return pool != NULL;
}

/* Parse a whole decimal number of at most `limit`; end the program on anything else. */
static uint64_t number_argument(const char *name, const char *text, uint64_t limit)
{
	char *end = NULL;

	errno = 0;
	unsigned long long value = strtoull(text, &end, 10);
	if (errno != 0 || *text < '0' || *text > '9' || *end != '\0' || value > limit) {
		fprintf(stderr, "fuse_memory: %s must be a number from 0 to %llu, not %s\n", name,
			(unsigned long long)limit, text);
		exit(2);
	}
	return value;
}

int main(int argc, char **argv)
{
	bool one_thread = false, attributes_asked = false;
	int option;

	while ((option = getopt(argc, argv, "sx")) != -1) {
		if (option == 's')
			one_thread = true;
		else if (option == 'x')
			attributes_asked = true;
		else
			argc = 0;
	}
	if (argc - optind != 3) {
		fprintf(stderr, "usage: fuse_memory [-s] [-x] MOUNTPOINT COUNT SIZE\n");
		return 2;
	}
	file_count = number_argument("COUNT", argv[optind + 1], UINT32_MAX);
	file_size = number_argument("SIZE", argv[optind + 2], MAX_SIZE);
	if (!fill_pool()) {
		perror("fuse_memory");
		return 1;
	}
	int status = serve(argv[0], argv[optind], one_thread, attributes_asked);
	free(pool);
	return status;
}
