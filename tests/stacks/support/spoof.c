/* Frames as a container is not supposed to send them, on eth0, fifteen times within two seconds:
 *   spoof arp CLAIMED VICTIM MAC       ARP requests and replies: "CLAIMED is at my address"
 *   spoof nd  CLAIMED VICTIM MAC       the same of IPv6: neighbour solicitations and advertisements
 *   spoof udp SOURCE  VICTIM MAC PORT  a datagram `forged` from SOURCE
 * with the address in SOURCE_MAC as the frames' own, where that is set. */
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

static unsigned char mine[6], theirs[6];
static int fd;

static unsigned sum(const void *data, int length, unsigned total) {
  const unsigned char *p = data;
  for (int i = 0; i < length; i++) total += i % 2 ? p[i] : p[i] << 8;
  return total;
}

static unsigned short folded(unsigned total) {
  while (total >> 16) total = (total & 0xffff) + (total >> 16);
  return htons(~total);
}

static void frame(unsigned short type, const void *payload, int length) {
  unsigned char bytes[256] = {0};
  memcpy(bytes, theirs, 6);
  memcpy(bytes + 6, mine, 6);
  *(unsigned short *)(bytes + 12) = htons(type);
  memcpy(bytes + 14, payload, length);
  if (send(fd, bytes, 14 + length < 60 ? 60 : 14 + length, 0) < 0) perror("send");
}

static void arp(const char *claimed, const char *victim, int operation) {
  unsigned char p[28] = {0, 1, 8, 0, 6, 4, 0, operation};
  memcpy(p + 8, mine, 6);
  inet_pton(AF_INET, claimed, p + 14);
  memcpy(p + 18, theirs, 6);
  inet_pton(AF_INET, victim, p + 24);
  frame(ETHERTYPE_ARP, p, sizeof p);
}

static void nd(const char *claimed, const char *victim, int type) {
  unsigned char p[40 + 32] = {0x60, 0, 0, 0, 0, 32, 58, 255};
  unsigned char *icmp = p + 40;
  inet_pton(AF_INET6, claimed, p + 8);
  inet_pton(AF_INET6, victim, p + 24);
  icmp[0] = type;
  icmp[4] = type == 136 ? 0x60 : 0;
  inet_pton(AF_INET6, type == 136 ? claimed : victim, icmp + 8);
  icmp[24] = type == 136 ? 2 : 1;
  icmp[25] = 1;
  memcpy(icmp + 26, mine, 6);
  *(unsigned short *)(icmp + 2) = folded(sum(icmp, 32, sum(p + 8, 32, 32 + 58)));
  frame(ETHERTYPE_IPV6, p, sizeof p);
}

static void udp(const char *source, const char *victim, int port) {
  unsigned char p[34] = {0x45, 0, 0, 34, 0, 1, 0, 0, 64, 17};
  inet_pton(AF_INET, source, p + 12);
  inet_pton(AF_INET, victim, p + 16);
  *(unsigned short *)(p + 10) = folded(sum(p, 20, 0));
  *(unsigned short *)(p + 20) = htons(53);
  *(unsigned short *)(p + 22) = htons(port);
  *(unsigned short *)(p + 24) = htons(14);
  memcpy(p + 28, "forged", 6);
  frame(ETHERTYPE_IP, p, sizeof p);
}

int main(int argc, char **argv) {
  if (argc < 5) return 2;
  struct ifreq request = {0};
  strcpy(request.ifr_name, "eth0");
  fd = socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL));
  if (fd < 0 || ioctl(fd, SIOCGIFHWADDR, &request)) return perror("eth0"), 1;
  memcpy(mine, request.ifr_hwaddr.sa_data, 6);
  const char *other = getenv("SOURCE_MAC");
  for (int i = 0; other && i < 6; i++) mine[i] = strtol(other + 3 * i, 0, 16);
  struct sockaddr_ll to = {.sll_family = AF_PACKET, .sll_ifindex = if_nametoindex("eth0"), .sll_protocol = htons(ETH_P_ALL)};
  if (bind(fd, (void *)&to, sizeof to)) return perror("bind"), 1;
  for (int i = 0; i < 6; i++) theirs[i] = strtol(argv[4] + 3 * i, 0, 16);
  for (int i = 0; i < 15; i++, usleep(100000)) {
    if (!strcmp(argv[1], "arp")) arp(argv[2], argv[3], 1), arp(argv[2], argv[3], 2);
    if (!strcmp(argv[1], "nd")) nd(argv[2], argv[3], 135), nd(argv[2], argv[3], 136);
    if (!strcmp(argv[1], "udp")) udp(argv[2], argv[3], atoi(argv[5]));
  }
  return 0;
}
