// Looks, as a container with SYS_PTRACE may, at every process that appears in its pid namespace, for SECONDS: directories among its
// descriptors (from 3 on), capabilities that this one does not have, and memory that it shares with others. Prints how many of these
// it has met, and of processes. As `tracer stop SECONDS` it stops each of them instead, as any process of their user may.
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static unsigned long long permitted(const char *pid) {
    char path[64], line[256];
    snprintf(path, sizeof path, "/proc/%s/status", pid);
    FILE *file = fopen(path, "r");
    unsigned long long set = 0;
    while (file && fgets(line, sizeof line, file))
        if (!strncmp(line, "CapPrm:", 7)) set = strtoull(line + 7, NULL, 16);
    if (file) fclose(file);
    return set;
}

static int shares_memory(const char *pid) {
    char path[64], line[512], mode[8];
    snprintf(path, sizeof path, "/proc/%s/maps", pid);
    FILE *file = fopen(path, "r");
    int found = 0;
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "%*x-%*x %7s", mode) == 1 && mode[1] == 'w' && mode[3] == 's') found = 1;
    if (file) fclose(file);
    return found;
}

// Whose descriptor was found, and of what, for who reads why the test has failed.
static void tell(const char *pid, const char *descriptor) {
    char path[64], name[64] = "?\n", target[256] = "?";
    snprintf(path, sizeof path, "/proc/%s/comm", pid);
    FILE *file = fopen(path, "r");
    if (file && !fgets(name, sizeof name, file)) name[0] = 0;
    if (file) fclose(file);
    ssize_t length = readlink(descriptor, target, sizeof target - 1);
    if (length >= 0) target[length] = 0;
    name[strcspn(name, "\n")] = 0;
    printf("%s of %s: %s\n", descriptor, name, target);
}

int main(int argc, char **argv) {
    char own[16], path[64], last[16] = "";
    snprintf(own, sizeof own, "%d", getpid());
    unsigned long long mine = permitted("self");
    long directories = 0, capabilities = 0, memory = 0, processes = 0;
    time_t end = time(NULL) + atoi(argv[argc - 1]);
    // Without a directory of its own, which the tracer would find.
    if (argc == 3)
        while (time(NULL) < end) processes += !kill(-1, SIGSTOP);
    while (time(NULL) < end) {
        DIR *all = opendir("/proc");
        struct dirent *entry;
        while ((entry = readdir(all))) {
            if (entry->d_name[0] < '1' || entry->d_name[0] > '9') continue;
            if (!strcmp(entry->d_name, "1") || !strcmp(entry->d_name, own)) continue;
            if (strcmp(last, entry->d_name)) processes++;
            snprintf(last, sizeof last, "%s", entry->d_name);
            if (permitted(entry->d_name) & ~mine) capabilities++;
            if (shares_memory(entry->d_name)) memory++;
            for (int fd = 3; fd < 32; fd++) {
                snprintf(path, sizeof path, "/proc/%s/fd/%d", entry->d_name, fd);
                int found = open(path, O_PATH | O_DIRECTORY);
                if (found < 0) continue;
                directories++, close(found);
                tell(entry->d_name, path);
            }
        }
        closedir(all);
    }
    printf("directories %ld capabilities %ld memory %ld of %s\n", directories, capabilities, memory, processes ? "some" : "none");
    return 0;
}
