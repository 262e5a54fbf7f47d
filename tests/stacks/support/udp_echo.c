/* Answers every datagram with itself, on port 7, or on a port and with a word that are named: busybox has no such server. */
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
int main(int argc, char **argv) {
  int fd = socket(AF_INET, SOCK_DGRAM, 0);
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(argc > 1 ? atoi(argv[1]) : 7)}, from;
  char buffer[2048];
  if (bind(fd, (void *)&to, sizeof to)) return 1;
  for (;;) {
    socklen_t length = sizeof from;
    ssize_t n = recvfrom(fd, buffer, sizeof buffer, 0, (void *)&from, &length);
    if (n < 0) continue;
    if (argc > 2) sendto(fd, argv[2], strlen(argv[2]), 0, (void *)&from, length);
    else sendto(fd, buffer, n, 0, (void *)&from, length);
  }
}
