// A file system (FUSE) of empty directories at its argument, that takes the requests of a monitor's children and never answers them:
// who has asked cannot be killed until the file system is gone.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

static char request[1 << 20];

static int of_monitor(int pid) {
    char path[64], line[256] = "";
    snprintf(path, sizeof path, "/proc/%d/cmdline", pid);
    int file = open(path, O_RDONLY);
    ssize_t length = read(file, line, sizeof line - 1);
    close(file);
    return length > 0 && !strcmp(line + strlen(line) + 1, "monitor");
}

int main(int argc, char **argv) {
    int device = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    char options[128];
    snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", device);
    if (argc < 2 || mount("half-silent", argv[1], "fuse", MS_NOSUID, options)) return perror("mount"), 1;
    puts("mounted");
    fflush(stdout);
    while (read(device, request, sizeof request) > 0) {
        struct fuse_in_header *asked = (void *)request;
        struct {
            struct fuse_out_header head;
            union {
                struct fuse_init_out init;
                struct fuse_entry_out entry;
                struct fuse_attr_out attr;
            };
        } answer = {.head = {.len = sizeof answer.head, .unique = asked->unique}};
        struct fuse_attr attr = {.ino = 2, .mode = S_IFDIR | 0755, .nlink = 2};
        if (asked->opcode == FUSE_FORGET) continue;
        if (asked->opcode != FUSE_INIT && of_monitor(asked->pid)) continue;
        switch (asked->opcode) {
        case FUSE_INIT:
            answer.init = (struct fuse_init_out){.major = 7, .minor = 31, .max_write = 65536};
            answer.head.len += sizeof answer.init;
            break;
        case FUSE_LOOKUP:
            answer.entry = (struct fuse_entry_out){.nodeid = 2, .attr = attr};
            answer.head.len += sizeof answer.entry;
            break;
        case FUSE_GETATTR:
            attr.ino = asked->nodeid;
            answer.attr = (struct fuse_attr_out){.attr = attr};
            answer.head.len += sizeof answer.attr;
            break;
        default: answer.head.error = -ENOSYS;
        }
        if (write(device, &answer, answer.head.len) < 0) perror("answer");
    }
    return 0;
}
