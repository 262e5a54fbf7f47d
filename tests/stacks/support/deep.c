/* Makes directories one in another, N of them, as `mkdir d; cd d` does: deeper than any path can name. */
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

int main(int argc, char **argv) {
    for (int n = argc > 1 ? atoi(argv[1]) : 20000; n > 0; n--)
        if (mkdir("d", 0700) || chdir("d"))
            return 1;
    return 0;
}
