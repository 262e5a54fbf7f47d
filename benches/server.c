/* The smallest static web server that keeps connections: what is measured is the way to it. One thread a processor. On SIGTERM it answers what
   comes, closes each connection after its answer, and ends with the last. */
#define _GNU_SOURCE
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>
static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\nContent-Type: text/plain\r\n\r\nhello\n";
static const char last[] = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 6\r\n\r\nhello\n";
static volatile sig_atomic_t ending;
static void end(int unused) { ending = 1; }
static void *serve(void *unused) {
  int open = 0;
  int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), epoll = epoll_create1(0);
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(80)};
  setsockopt(listener, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one);
  if (bind(listener, (void *)&to, sizeof to) || listen(listener, 256)) _exit(1);
  struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, events[64];
  epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
  for (;;) {
    int n = epoll_wait(epoll, events, 64, 50);
    if (ending && n == 0 && open == 0) return unused;
    for (int i = 0; i < n; i++) {
      int fd = events[i].data.fd;
      if (fd == listener) {
        int client = accept4(listener, 0, 0, SOCK_NONBLOCK);
        if (client < 0) continue;
        event.data.fd = client;
        open++;
        epoll_ctl(epoll, EPOLL_CTL_ADD, client, &event);
        continue;
      }
      char buffer[4096];
      ssize_t got = read(fd, buffer, sizeof buffer);
      if (got > 0 && (ending || memmem(buffer, got, "onnection: close", 16))) {
        if (write(fd, last, sizeof last - 1) >= 0) shutdown(fd, SHUT_WR);
        close(fd);
        open--;
      } else if (got <= 0 || write(fd, answer, sizeof answer - 1) < 0) {
        close(fd);
        open--;
      }
    }
  }
  return unused;
}
int main(void) {
  pthread_t other;
  signal(SIGTERM, end);
  signal(SIGPIPE, SIG_IGN);
  pthread_create(&other, 0, serve, 0);
  serve(0);
  pthread_join(other, 0);
}
