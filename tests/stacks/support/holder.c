// Holds files as a container may: `lease FILE...` takes leases, `flock DIRECTORY` a lock, and both wait; `immutable FILE...` and
// `append FILE...` set these flags.
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/fs.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <unistd.h>

int main(int argc, char **argv) {
    signal(SIGIO, SIG_IGN);
    for (int n = 2; n < argc; n++) {
        int file = open(argv[n], O_RDONLY), flags = 0, failed;
        if (!strcmp(argv[1], "lease")) failed = fcntl(file, F_SETLEASE, F_RDLCK);
        else if (!strcmp(argv[1], "flock")) failed = flock(file, LOCK_EX);
        else {
            ioctl(file, FS_IOC_GETFLAGS, &flags);
            flags |= strcmp(argv[1], "append") ? FS_IMMUTABLE_FL : FS_APPEND_FL;
            failed = ioctl(file, FS_IOC_SETFLAGS, &flags);
        }
        if (failed) return perror(argv[n]), 1;
    }
    puts("held");
    fflush(stdout);
    while (*argv[1] == 'l' || *argv[1] == 'f') pause();
    return 0;
}
