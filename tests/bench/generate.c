/* generate IF 64|imix|1514 FRAMES_PER_SECOND SECONDS: UDP frames of 64 flows at a steady pace.
 *
 * Sizes count the FCS that is not there, as the field does: "64" is 60 bytes, "1514" is 1514 without FCS, IMIX is
 * 60, 590 and 1514 in the proportion 7:4:1, shuffled. Sent in bursts of 32 past the queueing discipline. Prints how
 * many were sent.
 */
#define _GNU_SOURCE /* sendmmsg */
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum { FLOWS = 64, BURST = 32, FRAMES = 4096 };

static unsigned char frames[FRAMES][1514];
static struct iovec parts[FRAMES];
static struct mmsghdr messages[FRAMES];

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static unsigned random_number(void) { /* xorshift: the same frames in every run */
    static unsigned state = 2463534242u;
    state ^= state << 13;
    state ^= state >> 17;
    return state ^= state << 5;
}

static size_t length_of(const char *size) {
    if (strcmp(size, "imix") != 0)
        return strcmp(size, "64") == 0 ? 60 : 1514;
    const unsigned of_12 = random_number() % 12;
    return of_12 < 7 ? 60 : of_12 < 11 ? 590 : 1514;
}

static void fill(unsigned char *frame, size_t length, unsigned flow) {
    static const unsigned char ethernet[14] = {2, 0xfa, 0, 0, 0, 2, 2, 0xfa, 0, 0, 0, 1, 8, 0};
    const uint16_t total = htons(length - 14), udp = htons(length - 34);
    memcpy(frame, ethernet, sizeof ethernet);
    unsigned char *ip = frame + 14;
    ip[0] = 0x45;
    memcpy(ip + 2, &total, 2);
    ip[8] = 64;
    ip[9] = 17;
    memcpy(ip + 12, (unsigned char[]){10, 8, 0, 100 + flow % 16, 10, 8, 0, 200}, 8);
    uint32_t sum = 0;
    for (int at = 0; at < 20; at += 2)
        sum += ip[at] << 8 | ip[at + 1];
    sum = (sum & 0xffff) + (sum >> 16);
    const uint16_t checksum = htons(~((sum & 0xffff) + (sum >> 16)));
    memcpy(ip + 10, &checksum, 2);
    const uint16_t ports[2] = {htons(10000 + flow), htons(9)};
    memcpy(ip + 20, ports, 4);
    memcpy(ip + 24, &udp, 2); /* checksum 0: none */
    for (size_t at = 42; at < length; at++)
        frame[at] = at * 7 + flow;
}

int main(int argc, char **argv) {
    if (argc != 5) {
        fprintf(stderr, "usage: generate IF 64|imix|1514 FRAMES_PER_SECOND SECONDS\n");
        return 2;
    }
    const double pace = atof(argv[3]), seconds = atof(argv[4]);
    const int out = socket(AF_PACKET, SOCK_RAW, 0), on = 1;
    struct sockaddr_ll at = {.sll_family = AF_PACKET, .sll_ifindex = if_nametoindex(argv[1])};
    if (out < 0 || bind(out, (struct sockaddr *)&at, sizeof at) != 0) {
        perror(argv[1]);
        return 1;
    }
    setsockopt(out, SOL_PACKET, PACKET_QDISC_BYPASS, &on, sizeof on);
    for (unsigned number = 0; number < FRAMES; number++) {
        parts[number] = (struct iovec){frames[number], length_of(argv[2])};
        fill(frames[number], parts[number].iov_len, random_number() % FLOWS);
        messages[number].msg_hdr = (struct msghdr){.msg_iov = &parts[number], .msg_iovlen = 1};
    }

    const unsigned long goal = pace * seconds;
    unsigned long sent = 0;
    const double start = now();
    while (sent < goal && now() - start < 4 * seconds) {
        const double ahead = sent / pace - (now() - start);
        if (ahead > 0) {
            const struct timespec rest = {0, ahead * 1e9};
            nanosleep(&rest, NULL);
        }
        const int taken = sendmmsg(out, &messages[sent % (FRAMES - BURST)], BURST, 0);
        if (taken > 0)
            sent += taken;
    }
    printf("%lu\n", sent);
    return 0;
}
