/* generate IF 64|imix|1514|http|vxlan-BYTES|erspan2-BYTES FRAMES_PER_SECOND SECONDS: UDP frames of 64 flows at a given pace,
 * or, as "http", conversations: each of ten frames, sixty at a time, with a GET for /evil that a rule can look for.
 *
 * Sizes count the FCS that is not there, as the field does: "64" is 60 bytes, "1514" is 1514 without FCS, IMIX is
 * 60, 590 and 1514 in the proportion 7:4:1, at random for each frame. They leave through AF_XDP, which is fast enough to
 * find the limits of a tap, in bursts of up to 32 at random intervals: even ones fall into step with a tap's timers.
 * Frames in a tunnel go to the socket of whoever receives at 10.8.0.2: VNI 42 or session 7. Others go to nobody.
 * About a thousand frames a second carry the moment of their sending (MARK, then nanoseconds of CLOCK_REALTIME, after
 * the UDP header). Prints how many were sent, in how many seconds, and the CPU time of sending alone, in which the
 * receiving interface and what captures there have their share.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_xdp.h>
#include <math.h>
#include <net/if.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>

enum { FLOWS = 64, BURST = 32, FRAMES = 4096, CHUNK = 2048, RING = 2048, HEADERS = 42, STAMPS = 1000, TUNNEL = 50, SEQUENCE = 38 };
static const unsigned char MARK[4] = {'f', 's', 'p', 'n'};

static unsigned char *memory; /* FRAMES chunks, one frame each */
static uint32_t lengths[FRAMES];
static int numbered; /* each with its number, at SEQUENCE */
static unsigned long conversations; /* so many in all, if they are any */

/* One ring that is shared with the kernel. */
struct ring {
    uint32_t *producer, *consumer;
    void *entries;
};

static uint64_t nanoseconds(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return time.tv_sec * 1000000000ull + time.tv_nsec;
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
    for (size_t at = HEADERS; at < length; at++)
        frame[at] = at * 7 + flow;
}

static uint32_t sum_of(const unsigned char *bytes, size_t length, uint32_t sum) {
    for (size_t at = 0; at < length; at++)
        sum += at % 2 ? bytes[at] : bytes[at] << 8;
    return sum;
}

static void put(unsigned char *at, uint32_t value, int bytes) {
    while (bytes--)
        *at++ = value >> 8 * bytes;
}

static unsigned folded(uint32_t sum) {
    sum = (sum & 0xffff) + (sum >> 16);
    return ~(sum + (sum >> 16)) & 0xffff;
}

/* One frame of a conversation over HTTP as client and server have it, with right checksums; its length. */
static size_t talk(unsigned char *frame, unsigned long conversation, unsigned step) {
    enum { SYN = 2, PUSH_ACK = 0x18, ACK = 0x10, FIN_ACK = 0x11, ASKED = 39, ANSWERED = 340, START = 1000 };
    static const char request[] = "GET /evil HTTP/1.1\r\nHost: a.example\r\n\r\n";
    static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 300\r\n\r\n";
    static const struct {
        int from_client, flags;
        uint32_t sequence, acknowledged;
        size_t payload;
    } steps[] = {
        {1, SYN, 0, 0, 0}, {0, SYN | ACK, 0, 1, 0}, {1, ACK, 1, 1, 0}, {1, PUSH_ACK, 1, 1, ASKED},
        {0, ACK, 1, 1 + ASKED, 0}, {0, PUSH_ACK, 1, 1 + ASKED, ANSWERED}, {1, ACK, 1 + ASKED, 1 + ANSWERED, 0},
        {1, FIN_ACK, 1 + ASKED, 1 + ANSWERED, 0}, {0, FIN_ACK, 1 + ANSWERED, 2 + ASKED, 0},
        {1, ACK, 2 + ASKED, 2 + ANSWERED, 0},
    };
    const unsigned client = 0x0a090000 + conversation / 20, server = 0x0a0800c8, port = 20000 + conversation % 20;
    const int up = steps[step].from_client;
    const size_t payload = steps[step].payload, length = 54 + payload;
    unsigned char *ip = frame + 14, *tcp = ip + 20;
    memcpy(frame, (unsigned char[]){2, 0xfa, 0, 0, 0, 2, 2, 0xfa, 0, 0, 0, 1, 8, 0}, 14);
    memset(ip, 0, 40);
    ip[0] = 0x45, ip[8] = 64, ip[9] = 6;
    put(ip + 2, length - 14, 2);
    put(ip + 12, up ? client : server, 4);
    put(ip + 16, up ? server : client, 4);
    put(ip + 10, folded(sum_of(ip, 20, 0)), 2);
    put(tcp, up ? port : 80, 2);
    put(tcp + 2, up ? 80 : port, 2);
    put(tcp + 4, START + steps[step].sequence, 4);
    put(tcp + 8, steps[step].flags & ACK ? START + steps[step].acknowledged : 0, 4);
    tcp[12] = 0x50, tcp[13] = steps[step].flags;
    put(tcp + 14, 60000, 2);
    if (payload == ASKED)
        memcpy(tcp + 20, request, ASKED);
    if (payload == ANSWERED) {
        memset(tcp + 20, 'x', ANSWERED);
        memcpy(tcp + 20, answer, sizeof answer - 1);
    }
    put(tcp + 16, folded(sum_of(tcp, 20 + payload, sum_of(ip + 12, 8, 6 + 20 + payload))), 2);
    return length;
}

/* The next frame of all conversations: one begins with every ten frames, and its steps are six beginnings apart. */
static size_t talk_on(unsigned char *frame) {
    enum { STEPS = 10, APART = 6 };
    static unsigned long beginning;
    static unsigned step = STEPS;
    for (;;) {
        if (step-- == 0)
            beginning++, step = STEPS - 1;
        const unsigned long conversation = beginning - step * APART;
        if (beginning >= step * APART && conversation < conversations)
            return talk(frame, conversation, step);
    }
}

/* Of "vxlan-200" 200, of what is not in a tunnel 0. */
static size_t tunnelled(const char *size) {
    const char *bytes = strchr(size, '-');
    return bytes ? strtoul(bytes + 1, NULL, 10) : 0;
}

/* Puts TUNNEL bytes of headers in front of a frame, which stands behind room for them. */
static void wrap(unsigned char *outer, size_t length, int erspan, unsigned flow) {
    static const unsigned char ethernet[14] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0xfa, 0, 0, 0, 1, 8, 0};
    fill(outer, TUNNEL, flow); /* for the form of an IP header */
    memcpy(outer, ethernet, sizeof ethernet);
    unsigned char *ip = outer + 14;
    const uint16_t total = htons(TUNNEL - 14 + length), udp = htons(TUNNEL - 34 + length), port = htons(4789);
    memcpy(ip + 2, &total, 2);
    ip[9] = erspan ? 47 : 17;
    memcpy(ip + 12, (unsigned char[]){10, 8, 0, 1, 10, 8, 0, 2, 0, 0}, 8);
    memset(ip + 10, 0, 2);
    uint32_t sum = 0;
    for (int at = 0; at < 20; at += 2)
        sum += ip[at] << 8 | ip[at + 1];
    sum = (sum & 0xffff) + (sum >> 16);
    const uint16_t checksum = htons(~((sum & 0xffff) + (sum >> 16)));
    memcpy(ip + 10, &checksum, 2);
    if (erspan) {
        memcpy(ip + 20, (unsigned char[]){0x10, 0, 0x88, 0xbe, 0, 0, 0, 0, 0x10, 0, 0, 7, 0, 0, 0, 0}, 16);
        return;
    }
    memcpy(ip + 22, &port, 2);
    memcpy(ip + 24, &udp, 2);
    memset(ip + 26, 0, 2);
    memcpy(ip + 28, (unsigned char[]){8, 0, 0, 0, 0, 0, 42, 0}, 8);
}

static void *must_map(size_t length, int flags, int fd, off_t offset) {
    void *at = mmap(NULL, length, PROT_READ | PROT_WRITE, flags | MAP_POPULATE, fd, offset);
    if (at == MAP_FAILED) {
        perror("mmap");
        exit(1);
    }
    return at;
}

static struct ring map_ring(int xsk, const struct xdp_ring_offset *offset, size_t entry, off_t which) {
    unsigned char *at = must_map(offset->desc + RING * entry, MAP_SHARED, xsk, which);
    return (struct ring){(uint32_t *)(at + offset->producer), (uint32_t *)(at + offset->consumer), at + offset->desc};
}

/* An AF_XDP socket that sends the frames in `memory` by copying. */
static int open_socket(const char *interface, struct ring *send, struct ring *done) {
    const int xsk = socket(AF_XDP, SOCK_RAW, 0), size = RING;
    const struct xdp_umem_reg umem = {.addr = (uintptr_t)memory, .len = FRAMES * CHUNK, .chunk_size = CHUNK};
    struct xdp_mmap_offsets offsets;
    socklen_t length = sizeof offsets;
    if (xsk < 0 || setsockopt(xsk, SOL_XDP, XDP_UMEM_REG, &umem, sizeof umem) != 0 ||
        setsockopt(xsk, SOL_XDP, XDP_UMEM_FILL_RING, &size, sizeof size) != 0 ||
        setsockopt(xsk, SOL_XDP, XDP_UMEM_COMPLETION_RING, &size, sizeof size) != 0 ||
        setsockopt(xsk, SOL_XDP, XDP_TX_RING, &size, sizeof size) != 0 ||
        getsockopt(xsk, SOL_XDP, XDP_MMAP_OFFSETS, &offsets, &length) != 0) {
        perror("generate: AF_XDP");
        exit(1);
    }
    *send = map_ring(xsk, &offsets.tx, sizeof(struct xdp_desc), XDP_PGOFF_TX_RING);
    *done = map_ring(xsk, &offsets.cr, sizeof(uint64_t), XDP_UMEM_PGOFF_COMPLETION_RING);
    struct sockaddr_xdp at = {.sxdp_family = AF_XDP, .sxdp_ifindex = if_nametoindex(interface), .sxdp_flags = XDP_COPY};
    for (int tries = 0; bind(xsk, (struct sockaddr *)&at, sizeof at) != 0; tries++) {
        if (errno != EBUSY || tries == 1000) { /* the socket before keeps the queue for some milliseconds */
            perror(interface);
            exit(1);
        }
        nanosleep(&(struct timespec){0, 1000000}, NULL);
    }
    return xsk;
}

/* Sends frames `first` to `first + count`; false when the kernel refuses to. */
static int send_burst(int xsk, struct ring *send, struct ring *done, unsigned first, unsigned count) {
    struct xdp_desc *descriptors = send->entries;
    uint32_t at = *send->producer;
    for (unsigned number = first; number < first + count; number++, at++) {
        const uint32_t sequence = htonl(number);
        if (conversations)
            lengths[number % FRAMES] = talk_on(memory + (uint64_t)(number % FRAMES) * CHUNK);
        if (numbered)
            memcpy(memory + (uint64_t)(number % FRAMES) * CHUNK + SEQUENCE, &sequence, sizeof sequence);
        descriptors[at % RING] = (struct xdp_desc){.addr = (uint64_t)(number % FRAMES) * CHUNK, .len = lengths[number % FRAMES]};
    }
    __atomic_store_n(send->producer, at, __ATOMIC_RELEASE);
    for (int tries = 0; __atomic_load_n(send->consumer, __ATOMIC_ACQUIRE) != at; tries++) {
        if (tries == 100000)
            return 0;
        if (sendto(xsk, NULL, 0, MSG_DONTWAIT, NULL, 0) < 0 && errno != EAGAIN && errno != EBUSY && errno != ENOBUFS)
            return 0;
        __atomic_store_n(done->consumer, __atomic_load_n(done->producer, __ATOMIC_ACQUIRE), __ATOMIC_RELEASE);
    }
    return 1;
}

int main(int argc, char **argv) {
    if (argc != 5) {
        fprintf(stderr, "usage: generate IF 64|imix|1514|http|vxlan-BYTES|erspan2-BYTES FRAMES_PER_SECOND SECONDS\n");
        return 2;
    }
    const double pace = atof(argv[3]), seconds = atof(argv[4]);
    memory = must_map(FRAMES * CHUNK, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    const size_t inner = tunnelled(argv[2]);
    conversations = strcmp(argv[2], "http") == 0 ? pace * seconds / 10 : 0;
    numbered = strncmp(argv[2], "erspan2", 7) == 0;
    if (inner && (inner < 60 || TUNNEL + inner > 1514)) {
        fprintf(stderr, "generate: a frame in a tunnel has 60 to %d bytes\n", 1514 - TUNNEL);
        return 2;
    }
    for (unsigned number = 0; number < FRAMES; number++) {
        unsigned char *frame = memory + number * CHUNK;
        lengths[number] = inner ? TUNNEL + inner : length_of(argv[2]);
        const unsigned flow = random_number() % FLOWS;
        fill(inner ? frame + TUNNEL : frame, inner ? inner : lengths[number], flow);
        if (inner)
            wrap(frame, inner, numbered, flow);
    }
    struct ring send, done;
    const int xsk = open_socket(argv[1], &send, &done);
    prctl(PR_SET_TIMERSLACK, 1);

    unsigned burst = pace < 5000 ? 1 : pace > 5000 * BURST ? BURST : pace / 5000;
    const double gap = burst / pace * 1e9, stamp = STAMPS / (pace / burst);
    const unsigned long goal = conversations ? conversations * 10 : pace * seconds;
    unsigned long sent = 0, stamped = 0;
    uint64_t cpu = 0;
    const uint64_t start = nanoseconds(CLOCK_MONOTONIC);
    double due = start;
    while (sent < goal && nanoseconds(CLOCK_MONOTONIC) - start < 4e9 * seconds) {
        due -= log((random_number() + 1.0) / 4294967297.0) * gap;
        if (due > nanoseconds(CLOCK_MONOTONIC)) {
            const struct timespec then = {due / 1e9, fmod(due, 1e9)};
            clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &then, NULL);
        }

        unsigned char *mark = memory + sent % FRAMES * CHUNK + HEADERS, before[12];
        const int marked = !inner && !conversations && random_number() / 4294967296.0 < stamp;
        const uint64_t used = nanoseconds(CLOCK_THREAD_CPUTIME_ID);
        if (marked) {
            const uint64_t now = nanoseconds(CLOCK_REALTIME);
            memcpy(before, mark, sizeof before);
            memcpy(mark, MARK, sizeof MARK);
            memcpy(mark + sizeof MARK, &now, sizeof now);
        }
        if (sent + burst > goal && conversations)
            burst = goal - sent;
        if (!send_burst(xsk, &send, &done, sent, burst)) {
            perror("generate: sending");
            return 1;
        }
        cpu += nanoseconds(CLOCK_THREAD_CPUTIME_ID) - used;
        if (marked)
            memcpy(mark, before, sizeof before);
        stamped += marked;
        sent += burst;
    }
    printf("{\"sent\":%lu,\"stamped\":%lu,\"seconds\":%.6f,\"cpu_ns\":%lu}\n", sent, stamped,
           (nanoseconds(CLOCK_MONOTONIC) - start) / 1e9, (unsigned long)cpu);
    return 0;
}
