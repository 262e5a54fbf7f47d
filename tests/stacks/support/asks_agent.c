// Sends the SSH agent of SSH_AUTH_SOCK a message of each TYPE, without content, and prints the types of its answers.
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

int main(int argc, char **argv) {
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    strncpy(address.sun_path, getenv("SSH_AUTH_SOCK"), sizeof address.sun_path - 1);
    int agent = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(agent, (void *)&address, sizeof address)) return 1;
    for (int i = 1; i < argc; i++) {
        unsigned char message[5] = { 0, 0, 0, 1, (unsigned char)atoi(argv[i]) };
        unsigned int length;
        if (write(agent, message, 5) != 5 || read(agent, &length, 4) != 4) return 2;
        static unsigned char answer[1 << 18];
        for (unsigned int at = 0; at < ntohl(length);) {
            ssize_t n = read(agent, answer + at, ntohl(length) - at);
            if (n <= 0) return 3;
            at += n;
        }
        printf("%d ", answer[0]);
    }
    return 0;
}
