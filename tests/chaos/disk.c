/* A disk that remembers: serves one file by FUSE, and writes down every write and every flush in their order.
 *
 *   disk IMAGE MOUNTPOINT LOG
 *
 * MOUNTPOINT/disk is IMAGE; a loop device on it is a block device whose history can be replayed. Records in LOG:
 * 'W' offset:u64 length:u64 data, 'F' (a flush), 'M' length:u64 text (a mark: a line on standard input, answered by a line once
 * it is written down). The program ends when the file system is unmounted. Kernel documentation: filesystems/fuse. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { ROOT = 1, FILE_NODE = 2, LARGEST = 1 << 20 };

static int fuse, image;
static FILE *history;
static unsigned long long size;

static void die(const char *what) { perror(what); exit(2); }

static void reply(unsigned long long unique, int error, const void *body, size_t length) {
    struct fuse_out_header header = { .len = sizeof header + length, .error = error, .unique = unique };
    struct iovec parts[] = { { &header, sizeof header }, { (void *)body, length } };
    if (writev(fuse, parts, length ? 2 : 1) < 0 && errno != ENOENT) die("answering the kernel");
}

static void attributes(unsigned long long node, struct fuse_attr *attr) {
    memset(attr, 0, sizeof *attr);
    attr->ino = node;
    attr->mode = node == ROOT ? S_IFDIR | 0700 : S_IFREG | 0600;
    attr->nlink = 1;
    attr->size = node == ROOT ? 0 : size;
    attr->blocks = attr->size / 512;
    attr->blksize = 4096;
}

static void record(char kind, unsigned long long offset, unsigned long long length, const void *data) {
    fputc(kind, history);
    if (kind == 'W') fwrite(&offset, 8, 1, history);
    if (kind != 'F') {
        fwrite(&length, 8, 1, history);
        fwrite(data, 1, length, history);
    }
}

static void answer(char *message) {
    struct fuse_in_header *in = (void *)message;
    char *body = message + sizeof *in;
    static char data[LARGEST];
    switch (in->opcode) {
    case FUSE_INIT: {
        struct fuse_init_in *asked = (void *)body;
        struct fuse_init_out out = { .major = FUSE_KERNEL_VERSION, .minor = FUSE_KERNEL_MINOR_VERSION, .max_readahead = asked->max_readahead,
                                     .flags = FUSE_BIG_WRITES | FUSE_MAX_PAGES, .max_write = 128 * 1024, .max_pages = 32, .max_background = 32, .congestion_threshold = 24 };
        reply(in->unique, 0, &out, sizeof out);
        break;
    }
    case FUSE_LOOKUP: {
        struct fuse_entry_out out = { .nodeid = FILE_NODE, .entry_valid = 3600, .attr_valid = 3600 };
        if (in->nodeid != ROOT || strcmp(body, "disk")) {
            reply(in->unique, -ENOENT, 0, 0);
            break;
        }
        attributes(FILE_NODE, &out.attr);
        reply(in->unique, 0, &out, sizeof out);
        break;
    }
    case FUSE_GETATTR: {
        struct fuse_attr_out out = { .attr_valid = 3600 };
        attributes(in->nodeid, &out.attr);
        reply(in->unique, 0, &out, sizeof out);
        break;
    }
    case FUSE_OPEN: case FUSE_OPENDIR: {
        /* No page cache between the loop device and this program: the order of writes is the block layer's. */
        struct fuse_open_out out = { .fh = 1, .open_flags = in->opcode == FUSE_OPEN ? FOPEN_DIRECT_IO : 0 };
        reply(in->unique, 0, &out, sizeof out);
        break;
    }
    case FUSE_READ: {
        struct fuse_read_in *read = (void *)body;
        ssize_t got = pread(image, data, read->size < LARGEST ? read->size : LARGEST, read->offset);
        reply(in->unique, got < 0 ? -errno : 0, data, got < 0 ? 0 : got);
        break;
    }
    case FUSE_WRITE: {
        struct fuse_write_in *write = (void *)body;
        ssize_t put = pwrite(image, body + sizeof *write, write->size, write->offset);
        struct fuse_write_out out = { .size = put < 0 ? 0 : put };
        if (put > 0) record('W', write->offset, put, body + sizeof *write);
        reply(in->unique, put < 0 ? -errno : 0, &out, put < 0 ? 0 : sizeof out);
        break;
    }
    case FUSE_FSYNC:
        record('F', 0, 0, 0);
        reply(in->unique, 0, 0, 0);
        break;
    case FUSE_FALLOCATE: {
        /* Discards and zeroed ranges come as holes: written down as zeros. */
        struct fuse_fallocate_in *range = (void *)body;
        static const char zeros[LARGEST];
        for (unsigned long long done = 0; done < range->length;) {
            unsigned long long part = range->length - done < LARGEST ? range->length - done : LARGEST;
            if (pwrite(image, zeros, part, range->offset + done) < 0) die("writing the image");
            record('W', range->offset + done, part, zeros);
            done += part;
        }
        reply(in->unique, 0, 0, 0);
        break;
    }
    case FUSE_STATFS: {
        struct fuse_statfs_out out = { .st = { .bsize = 4096, .frsize = 4096, .namelen = 255 } };
        reply(in->unique, 0, &out, sizeof out);
        break;
    }
    case FUSE_SETATTR: {
        struct fuse_attr_out out = { .attr_valid = 3600 };
        attributes(in->nodeid, &out.attr);
        reply(in->unique, 0, &out, sizeof out);
        break;
    }
    case FUSE_FLUSH: case FUSE_RELEASE: case FUSE_RELEASEDIR: case FUSE_ACCESS: case FUSE_DESTROY:
        reply(in->unique, 0, 0, 0);
        break;
    case FUSE_FORGET: case FUSE_BATCH_FORGET: case FUSE_INTERRUPT:
        break;
    default:
        reply(in->unique, -ENOSYS, 0, 0);
    }
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "disk IMAGE MOUNTPOINT LOG\n");
        return 2;
    }
    struct stat status;
    image = open(argv[1], O_RDWR | O_CLOEXEC);
    if (image < 0 || fstat(image, &status)) die(argv[1]);
    size = status.st_size;
    history = fopen(argv[3], "we");
    if (!history) die(argv[3]);
    fuse = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    if (fuse < 0) die("/dev/fuse");
    char options[128];
    snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=0,group_id=0", fuse);
    if (mount("disk", argv[2], "fuse", MS_NOSUID | MS_NODEV, options)) die(argv[2]);
    static char message[LARGEST + 4096], line[4096];
    struct pollfd fds[] = { { .fd = fuse, .events = POLLIN }, { .fd = 0, .events = POLLIN } };
    setvbuf(stdin, 0, _IONBF, 0);
    printf("ready\n");
    fflush(stdout);
    for (;;) {
        if (poll(fds, 2, -1) < 0 && errno != EINTR) die("poll");
        if (fds[1].revents && fgets(line, sizeof line, stdin)) {
            record('M', 0, strlen(line), line);
            printf("marked\n");
            fflush(stdout);
        } else if (fds[1].revents) {
            fds[1].fd = -1;
        }
        if (!fds[0].revents) continue;
        ssize_t got = read(fuse, message, sizeof message);
        if (got > 0) answer(message);
        else if (got < 0 && errno == ENODEV) break;
        else if (got < 0 && errno != EINTR && errno != EAGAIN && errno != ENOENT) die("reading from the kernel");
    }
    return fclose(history) ? 1 : 0;
}
