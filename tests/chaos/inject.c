/* Runs a program and counts its state-changing system calls; at the k-th it kills the program or fails the call.
 *
 *   inject LOG ROOT [ROOT...] -- PROGRAM [ARGUMENT...]
 *
 * Commands on standard input, one a line, answered on standard output:
 *   arm K kill|ERRNO   count from 1 from now on; at call K send SIGKILL before it takes effect, or let it fail with ERRNO
 *   count              the number of calls since `arm`
 *
 * Counted: calls of the program's own threads that change a file below one of ROOT, send a netlink message, or make a process.
 * LOG gets a line for each: number, call, path. Children inherit the filter and are let through, so this program ends only
 * when the last of them has. Seccomp user notification is used and not ptrace: the program keeps its own children's
 * tracing, and threads run at full speed between counted calls. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LISTENER = 1000 };
enum kind { BY_FD, BY_PATH, BY_AT, NETLINK, PROCESS };

/* The path or descriptor is argument `at`; for BY_AT a directory's descriptor and a path. */
static const struct call { int number; const char *name; enum kind kind; int at; } calls[] = {
    { __NR_write, "write", BY_FD, 0 }, { __NR_pwrite64, "pwrite64", BY_FD, 0 }, { __NR_writev, "writev", BY_FD, 0 },
    { __NR_pwritev, "pwritev", BY_FD, 0 }, { __NR_ftruncate, "ftruncate", BY_FD, 0 }, { __NR_fallocate, "fallocate", BY_FD, 0 },
    { __NR_fsync, "fsync", BY_FD, 0 }, { __NR_fdatasync, "fdatasync", BY_FD, 0 }, { __NR_syncfs, "syncfs", BY_FD, 0 },
    { __NR_fchmod, "fchmod", BY_FD, 0 }, { __NR_fchown, "fchown", BY_FD, 0 }, { __NR_fsetxattr, "fsetxattr", BY_FD, 0 },
    { __NR_copy_file_range, "copy_file_range", BY_FD, 2 }, { __NR_sendfile, "sendfile", BY_FD, 0 }, { __NR_splice, "splice", BY_FD, 2 },
    { __NR_openat, "openat", BY_AT, 0 }, { __NR_openat2, "openat2", BY_AT, 0 },
    { __NR_open, "open", BY_PATH, 0 }, { __NR_creat, "creat", BY_PATH, 0 },
    { __NR_mkdir, "mkdir", BY_PATH, 0 }, { __NR_mkdirat, "mkdirat", BY_AT, 0 }, { __NR_mknodat, "mknodat", BY_AT, 0 },
    { __NR_rmdir, "rmdir", BY_PATH, 0 }, { __NR_unlink, "unlink", BY_PATH, 0 }, { __NR_unlinkat, "unlinkat", BY_AT, 0 },
    { __NR_rename, "rename", BY_PATH, 0 }, { __NR_renameat, "renameat", BY_AT, 2 }, { __NR_renameat2, "renameat2", BY_AT, 2 },
    { __NR_link, "link", BY_PATH, 1 }, { __NR_linkat, "linkat", BY_AT, 2 },
    { __NR_symlink, "symlink", BY_PATH, 1 }, { __NR_symlinkat, "symlinkat", BY_AT, 1 },
    { __NR_chmod, "chmod", BY_PATH, 0 }, { __NR_fchmodat, "fchmodat", BY_AT, 0 }, { __NR_fchownat, "fchownat", BY_AT, 0 },
    { __NR_lchown, "lchown", BY_PATH, 0 }, { __NR_chown, "chown", BY_PATH, 0 }, { __NR_utimensat, "utimensat", BY_AT, 0 },
    { __NR_setxattr, "setxattr", BY_PATH, 0 }, { __NR_lsetxattr, "lsetxattr", BY_PATH, 0 },
    { __NR_sendmsg, "sendmsg", NETLINK, 0 }, { __NR_sendto, "sendto", NETLINK, 0 },
    { __NR_clone, "clone", PROCESS, 0 }, { __NR_clone3, "clone3", PROCESS, 0 }, { __NR_vfork, "vfork", PROCESS, 0 }, { __NR_fork, "fork", PROCESS, 0 },
};
enum { CALLS = sizeof calls / sizeof *calls };

static char *roots[8];
static int root_count;
static pid_t program;
static long counted, fatal;
static int failure; /* 0: kill */
static FILE *journal;

static void die(const char *what) { perror(what); exit(2); }

/* Argument 0 of the filter's program counter: jumps to the notification for a listed number. */
static int listen_for_calls(void) {
    struct sock_filter filter[CALLS + 5];
    int n = 0;
    filter[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch));
    filter[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 0, CALLS + 1);
    filter[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (int i = 0; i < CALLS; i++)
        filter[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, calls[i].number, CALLS - i, 0);
    filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF);
    struct sock_fprog prog = { .len = n, .filter = filter };
    return syscall(__NR_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &prog);
}

static int read_string(pid_t pid, unsigned long address, char *text, size_t size) {
    /* Page by page: a string may end just before memory that is not mapped. */
    size_t have = 0;
    while (have < size - 1) {
        size_t part = 4096 - (address + have) % 4096;
        if (part > size - 1 - have) part = size - 1 - have;
        struct iovec to = { text + have, part }, from = { (void *)(address + have), part };
        ssize_t got = process_vm_readv(pid, &to, 1, &from, 1, 0);
        if (got <= 0) break;
        if (memchr(text + have, 0, got)) return 0;
        have += got;
    }
    text[have] = 0;
    return have ? 0 : -1;
}

static void descriptor_path(pid_t pid, int fd, char *path, size_t size) {
    char name[64];
    if (fd == AT_FDCWD) snprintf(name, sizeof name, "/proc/%d/cwd", pid);
    else snprintf(name, sizeof name, "/proc/%d/fd/%d", pid, fd);
    ssize_t got = readlink(name, path, size - 1);
    path[got > 0 ? got : 0] = 0;
}

static int below_roots(const char *path) {
    for (int i = 0; i < root_count; i++)
        if (!strncmp(path, roots[i], strlen(roots[i]))) return 1;
    return 0;
}

static int is_netlink(pid_t pid, int fd) {
    char path[4096], name[64], line[512];
    descriptor_path(pid, fd, path, sizeof path);
    unsigned long inode, found = 0;
    if (sscanf(path, "socket:[%lu]", &inode) != 1) return 0;
    snprintf(name, sizeof name, "/proc/%d/net/netlink", pid);
    FILE *table = fopen(name, "re");
    while (table && !found && fgets(line, sizeof line, table)) {
        char *last = strrchr(line, ' ');
        line[strcspn(line, "\n")] = 0;
        while (last && last > line && last[1] == 0) *last = 0, last = strrchr(line, ' ');
        if (last && strtoul(last + 1, 0, 10) == inode) found = 1;
    }
    if (table) fclose(table);
    return found;
}

/* Whether the call changes state; its subject is put into `subject`. */
static int changes_state(const struct call *call, const struct seccomp_notif *ask, char *subject, size_t size) {
    const unsigned long long *args = ask->data.args;
    pid_t pid = ask->pid;
    char name[4096] = "", directory[4096] = "";
    *subject = 0;
    switch (call->kind) {
    case BY_FD:
        descriptor_path(pid, args[call->at], subject, size);
        return below_roots(subject);
    case BY_PATH:
        if (call->number == __NR_open && !(args[1] & (O_CREAT | O_TRUNC))) return 0;
        if (read_string(pid, args[call->at], name, sizeof name)) return 0;
        if (*name != '/') descriptor_path(pid, AT_FDCWD, directory, sizeof directory);
        snprintf(subject, size, "%s%s%s", directory, *directory ? "/" : "", name);
        return below_roots(subject);
    case BY_AT:
        if (call->number == __NR_openat && !(args[2] & (O_CREAT | O_TRUNC))) return 0;
        if (call->number == __NR_openat2) {
            unsigned long long flags = 0;
            struct iovec to = { &flags, sizeof flags }, from = { (void *)(unsigned long)args[2], sizeof flags };
            if (process_vm_readv(pid, &to, 1, &from, 1, 0) != sizeof flags || !(flags & (O_CREAT | O_TRUNC))) return 0;
        }
        if (args[call->at + 1]) read_string(pid, args[call->at + 1], name, sizeof name);
        if (*name != '/') descriptor_path(pid, args[call->at], directory, sizeof directory);
        if (!strncmp(name, "/proc/self/fd/", 14)) {
            descriptor_path(pid, atoi(name + 14), directory, sizeof directory);
            char *rest = strchr(name + 14, '/');
            snprintf(subject, size, "%s%s", directory, rest ? rest : "");
        } else {
            snprintf(subject, size, "%s%s%s", directory, *directory ? "/" : "", name);
        }
        return below_roots(subject);
    case NETLINK:
        snprintf(subject, size, "netlink");
        return is_netlink(pid, args[0]);
    case PROCESS:
        snprintf(subject, size, "process");
        if (call->number == __NR_clone3) {
            unsigned long long flags = 0;
            struct iovec to = { &flags, sizeof flags }, from = { (void *)(unsigned long)args[0], sizeof flags };
            return process_vm_readv(pid, &to, 1, &from, 1, 0) == sizeof flags && !(flags & CLONE_THREAD);
        }
        return call->number != __NR_clone || !(args[0] & CLONE_THREAD);
    }
    return 0;
}

static int of_program(pid_t thread) {
    char name[64];
    snprintf(name, sizeof name, "/proc/%d/task/%d", program, thread);
    return access(name, F_OK) == 0;
}

static void answer(int listener) {
    struct seccomp_notif ask;
    struct seccomp_notif_resp reply;
    memset(&ask, 0, sizeof ask);
    if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &ask)) return;
    memset(&reply, 0, sizeof reply);
    reply.id = ask.id;
    reply.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
    if (fatal && program && of_program(ask.pid)) {
        char subject[8192];
        const struct call *call = calls;
        while (call->number != ask.data.nr) call++;
        if (changes_state(call, &ask, subject, sizeof subject)) {
            counted++;
            fprintf(journal, "%ld %s %s\n", counted, call->name, subject);
            if (counted == fatal && !failure) {
                fflush(journal);
                kill(program, SIGKILL);
                return;
            }
            if (counted == fatal) {
                reply.flags = 0;
                reply.error = -failure;
            }
        }
    }
    ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &reply);
}

static void command(void) {
    char line[256], what[32];
    if (!fgets(line, sizeof line, stdin)) {
        if (program) kill(program, SIGKILL);
        close(0);
        return;
    }
    if (sscanf(line, "arm %ld %31s", &fatal, what) == 2) {
        counted = 0;
        failure = strcmp(what, "kill") ? atoi(what) : 0;
        fprintf(journal, "armed %s", line);
    }
    fflush(journal);
    printf("%ld\n", counted);
    fflush(stdout);
}

int main(int argc, char **argv) {
    int first = 2;
    while (first < argc && strcmp(argv[first], "--")) {
        if (root_count < 8) roots[root_count++] = argv[first];
        first++;
    }
    if (first + 1 >= argc) {
        fprintf(stderr, "inject LOG ROOT... -- PROGRAM ARGUMENT...\n");
        return 2;
    }
    journal = fopen(argv[1], "we");
    if (!journal) die(argv[1]);
    setvbuf(stdin, 0, _IONBF, 0);
    int taken[2];
    if (pipe2(taken, O_CLOEXEC)) die("pipe");
    program = fork();
    if (program == 0) {
        int listener = listen_for_calls();
        if (listener < 0) die("seccomp");
        /* The parent takes it from here. A message with the descriptor would be a filtered call that nobody answers yet. */
        char go;
        if (dup3(listener, LISTENER, O_CLOEXEC) < 0 || read(taken[0], &go, 1) != 1) _exit(2);
        execvp(argv[first + 1], argv + first + 1);
        _exit(127);
    }
    int pidfd = syscall(__NR_pidfd_open, program, 0), listener = -1;
    for (int tries = 0; listener < 0 && tries < 100000; tries++) listener = syscall(__NR_pidfd_getfd, pidfd, LISTENER, 0);
    if (listener < 0) die("taking the listener");
    if (write(taken[1], "", 1) != 1) die("write");
    struct pollfd fds[] = { { .fd = listener, .events = POLLIN }, { .fd = 0, .events = POLLIN }, { .fd = pidfd, .events = POLLIN } };
    for (;;) {
        if (poll(fds, 3, -1) < 0 && errno != EINTR) die("poll");
        if (fds[0].revents & POLLIN) answer(listener);
        else if (fds[0].revents & POLLHUP) fds[0].fd = -1; /* The last process with the filter is gone. */
        if (fds[1].revents) {
            command();
            if (fcntl(0, F_GETFD) < 0) fds[1].fd = -1;
        }
        if (fds[2].revents) {
            waitpid(program, 0, 0);
            program = 0;
            fds[2].fd = -1;
        }
        if (fds[0].fd < 0 && fds[1].fd < 0) return 0;
    }
}
