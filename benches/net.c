/* What containers' networks carry. As a sink it takes what comes; as a sender it tells how much went; and it asks a resolver. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec / 1e9;
}

static char buffer[1 << 17];

static int sink(int port) {
  int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
  struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port)};
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (bind(listener, (void *)&at, sizeof at) || listen(listener, 16)) return 1;
  for (;;) {
    int fd = accept(listener, 0, 0);
    while (read(fd, buffer, sizeof buffer) > 0) {}
    close(fd);
  }
}

/* Prints MiB a second. */
static int sender(const char *address, int port, double seconds) {
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
  if (inet_pton(AF_INET, address, &to.sin_addr) != 1 || connect(fd, (void *)&to, sizeof to)) return 1;
  double begun = now(), sent = 0;
  while (now() - begun < seconds) {
    ssize_t n = write(fd, buffer, sizeof buffer);
    if (n <= 0) return 1;
    sent += n;
  }
  printf("%.0f\n", sent / (now() - begun) / (1 << 20));
  return 0;
}

static int compare(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return x < y ? -1 : x > y;
}

/* Asks for a name's address, WINDOW questions on their way at a time. Prints answers a second and the 99th percentile in µs. */
static int dns(const char *name, double seconds, int window) {
  static double sent[65536], taken[4000000];
  unsigned char question[300] = {0, 0, 1, 0, 0, 1};
  size_t length = 12;
  for (const char *part = name; *part;) {
    size_t n = strcspn(part, ".");
    question[length++] = n;
    memcpy(question + length, part, n);
    length += n;
    part += n + (part[n] == '.');
  }
  memcpy(question + length, "\0\0\1\0\1", 5);
  length += 5;
  int fd = socket(AF_INET, SOCK_DGRAM, 0);
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(53)};
  inet_pton(AF_INET, "127.0.0.11", &to.sin_addr);
  if (connect(fd, (void *)&to, sizeof to)) return 1;
  uint16_t next = 0;
  int open = 0;
  size_t answers = 0;
  double begun = now();
  while (now() - begun < seconds && answers < sizeof taken / sizeof *taken) {
    for (; open < window; open++, next++) {
      question[0] = next >> 8, question[1] = next;
      sent[next] = now();
      if (send(fd, question, length, 0) < 0) return 1;
    }
    struct pollfd ready = {fd, POLLIN, 0};
    if (poll(&ready, 1, 1000) == 0) { open = 0; continue; }
    unsigned char answer[1500];
    ssize_t n = recv(fd, answer, sizeof answer, 0);
    if (n < 12 || answer[7] == 0) return 2;
    taken[answers++] = now() - sent[answer[0] << 8 | answer[1]];
    open--;
  }
  double rate = answers / (now() - begun);
  qsort(taken, answers, sizeof *taken, compare);
  printf("%.0f %.0f\n", rate, taken[answers * 99 / 100] * 1e6);
  return 0;
}

int main(int argc, char **argv) {
  if (argc == 3 && !strcmp(argv[1], "sink")) return sink(atoi(argv[2]));
  if (argc == 5 && !strcmp(argv[1], "send")) return sender(argv[2], atoi(argv[3]), atof(argv[4]));
  if (argc == 5 && !strcmp(argv[1], "dns")) return dns(argv[2], atof(argv[3]), atoi(argv[4]));
  return 64;
}
