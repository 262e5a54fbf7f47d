/* Answers every datagram on port 7 with itself: busybox has no such server. */
#include <netinet/in.h>
#include <sys/socket.h>
int main(void) {
  int fd = socket(AF_INET, SOCK_DGRAM, 0);
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(7)}, from;
  char buffer[2048];
  if (bind(fd, (void *)&to, sizeof to)) return 1;
  for (;;) {
    socklen_t length = sizeof from;
    ssize_t n = recvfrom(fd, buffer, sizeof buffer, 0, (void *)&from, &length);
    if (n >= 0) sendto(fd, buffer, n, 0, (void *)&from, length);
  }
}
