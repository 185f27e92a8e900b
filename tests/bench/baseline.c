/* baseline IF vxlan|gre|erspan2 ADDRESS [MEBIBYTES]: the plainest tap there is, to measure farspan against.
 *
 * One thread, one frame at a time: pcap_next_ex (TPACKET_V3 through libpcap, no immediate mode, 8 MiB unless told
 * otherwise, 10 ms), a header in front of the frame, one sendto. VXLAN by one unconnected UDP socket without checksum,
 * GRE and ERSPAN II by a raw socket. No segmentation, no checksums, no accounting: it is the floor of features, not a
 * rival. Ends on SIGTERM.
 */
#include <arpa/inet.h>
#include <pcap/pcap.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

static pcap_t *tap;

static void stop(int signal) {
    (void)signal;
    pcap_breakloop(tap);
}

static void die(const char *what, const char *why) {
    fprintf(stderr, "baseline: %s: %s\n", what, why);
    exit(1);
}

int main(int argc, char **argv) {
    if (argc < 4 || argc > 5)
        die("usage", "baseline IF vxlan|gre|erspan2 ADDRESS [MEBIBYTES]");
    const int erspan = strcmp(argv[2], "erspan2") == 0, raw = erspan || strcmp(argv[2], "gre") == 0;

    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = raw ? 0 : htons(4789)};
    if (inet_pton(AF_INET, argv[3], &to.sin_addr) != 1)
        die(argv[3], "not an IPv4 address");
    const int out = raw ? socket(AF_INET, SOCK_RAW, IPPROTO_GRE) : socket(AF_INET, SOCK_DGRAM, 0);
    const int on = 1;
    if (out < 0 || (!raw && setsockopt(out, SOL_SOCKET, SO_NO_CHECK, &on, sizeof on) != 0)) {
        perror("baseline: socket");
        return 1;
    }

    char why[PCAP_ERRBUF_SIZE] = "";
    tap = pcap_create(argv[1], why);
    if (!tap)
        die(argv[1], why);
    pcap_set_snaplen(tap, 262144);
    pcap_set_promisc(tap, 1);
    pcap_set_timeout(tap, 10);
    pcap_set_buffer_size(tap, (argc == 5 ? atoi(argv[4]) : 8) << 20);
    if (pcap_activate(tap) < 0)
        die(argv[1], pcap_geterr(tap));
    signal(SIGTERM, stop);
    signal(SIGINT, stop);
    fprintf(stderr, "baseline: mirroring %s\n", argv[1]);

    static unsigned char datagram[8 + 262144];
    const unsigned char vxlan[8] = {0x08, 0, 0, 0, 0, 0, 42, 0}, teb[4] = {0, 0, 0x65, 0x58};
    /* GRE with a sequence number, ERSPAN version 1 (type II), session 7 */
    const unsigned char erspan2[16] = {0x10, 0, 0x88, 0xbe, 0, 0, 0, 0, 0x10, 0, 0, 7, 0, 0, 0, 0};
    const size_t header = erspan ? sizeof erspan2 : raw ? sizeof teb : sizeof vxlan;
    memcpy(datagram, erspan ? erspan2 : raw ? teb : vxlan, header);
    uint32_t captured = 0, sent = 0;
    struct pcap_pkthdr *about;
    const unsigned char *frame;
    int got;
    while ((got = pcap_next_ex(tap, &about, &frame)) >= 0) {
        if (got == 0)
            continue;
        if (erspan)
            memcpy(datagram + 4, &(uint32_t){htonl(captured)}, 4);
        captured++;
        memcpy(datagram + header, frame, about->caplen);
        if (sendto(out, datagram, header + about->caplen, 0, (struct sockaddr *)&to, sizeof to) >= 0)
            sent++;
    }
    struct pcap_stat kernel = {0};
    pcap_stats(tap, &kernel);
    printf("{\"captured\":%u,\"kernel_dropped\":%u,\"sent\":%u}\n", captured, kernel.ps_drop, sent);
    return 0;
}
