/* What two workers can have of this machine at best: processes that share nothing, each on a CPU of its own.
 *
 *     apart COUNT SECONDS      prints how many rounds a second they did together
 *
 * A round is what a tap does with a frame: arithmetic, a system call, and a copy from memory that is not in the caches.
 * Two virtual CPUs are often the two threads of one core: then two such processes do less than twice the work. Only
 * arithmetic that does not wait for its own last result shows that, as that of a tap does not. */
#define _GNU_SOURCE
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MEMORY = 32 << 20, FRAME = 384, STEP = 1024, ROUNDS = 256, LANES = 4, PASSES = 4 };

static double now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

/* Rounds a second between two moments that all processes know. */
static double work(double begin, double end)
{
    unsigned char *memory = malloc(MEMORY);
    uint64_t words[FRAME / 8], sums[LANES] = {1, 2, 3, 4}, rounds = 0;
    volatile uint64_t result;
    size_t at = 0;

    if (!memory)
        return 0;
    memset(memory, 1, MEMORY);
    while (now() < begin)
        sched_yield();
    while (now() < end) {
        for (int round = 0; round < ROUNDS; round++) {
            memcpy(words, memory + at, FRAME);
            at = (at + STEP) % (MEMORY - FRAME);
            for (int i = 0; i < PASSES * FRAME / 8; i += LANES)
                for (int lane = 0; lane < LANES; lane++)
                    sums[lane] = (sums[lane] ^ words[(i + lane) % (FRAME / 8)]) * 6364136223846793005u;
            getppid();
        }
        rounds += ROUNDS;
    }
    result = sums[0] ^ sums[1] ^ sums[2] ^ sums[3];
    (void)result;
    free(memory);
    return (double)rounds / (end - begin);
}

int main(int argc, char **argv)
{
    int count = argc == 3 ? atoi(argv[1]) : 0, results[2];
    double seconds = argc == 3 ? atof(argv[2]) : 0, begin = now() + 0.1, sum = 0, one;

    if (count < 1 || seconds <= 0 || pipe(results)) {
        fprintf(stderr, "usage: apart COUNT SECONDS\n");
        return 2;
    }
    for (int number = 0; number < count; number++)
        if (fork() == 0) {
            cpu_set_t own;

            CPU_ZERO(&own);
            CPU_SET((unsigned)number, &own);
            sched_setaffinity(0, sizeof own, &own);
            one = work(begin, begin + seconds);
            _exit(write(results[1], &one, sizeof one) != sizeof one);
        }
    for (int number = 0; number < count; number++) {
        if (read(results[0], &one, sizeof one) != sizeof one)
            return 1;
        sum += one;
        wait(NULL);
    }
    printf("%.0f\n", sum);
    return 0;
}
