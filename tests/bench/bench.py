#!/usr/bin/env python3
"""What farspan costs, measured against the plainest tap there is; called by scripts/bench, as root.

One run, one table. Of everything that is compared, each round lets every tap do the same once, in an order that
changes from round to round: what else happens on the machine meets all alike. The table shows medians; a ratio is the
median of the rounds' own ratios, because a machine that is slow for a minute is slow for all that were measured then.
"""
import argparse
import json
import os
import platform
import statistics
import sys
from pathlib import Path

import daemon
import hostile
import measure
import receiver
from lab import QUEUES, Lab
from program import Refused
from tap import ENCAPSULATIONS, TRANSMIT

SIZES = ["64", "imix", "1514", "tcp"]
PARTS = ["cost", "checksums", "rate", "delay", "idle", "drain", "receive", "governor", "sessions", "hostile"]
PACE = 200_000  # frames a second: loss-free for every tap, so that all pay for the same frames
PACES = [1_000, 20_000, 200_000]  # of the delays

# The project's goals: the largest ratio to the baseline, by (sink, size, encapsulation) and way of transmitting. For
# TCP the baseline is farspan's own sendmmsg: a tap that does not cut super-frames sends an analyzer nothing useful.
BARS = {
    ("veth", "64", "vxlan"): {"socket": 0.82, "socket-gso": 0.33, "xdp": 0.38},
    ("veth", "imix", "vxlan"): {"socket": 0.82, "socket-gso": 0.62, "xdp": 0.38},
    ("veth", "1514", "vxlan"): {"socket": 0.78, "socket-gso": 0.40, "xdp": 0.38},
    ("veth", "imix", "gre"): {"socket": 0.95, "xdp": 0.38},
    ("veth", "imix", "erspan2"): {"socket": 0.95, "xdp": 0.38},
    ("veth", "tcp", "vxlan"): {"socket": 1.0, "socket-gso": 0.50, "xdp": 0.60},
    ("ifb", "64", "vxlan"): {"socket": None, "socket-gso": None, "xdp": 0.24},
    ("ifb", "imix", "vxlan"): {"socket": None, "socket-gso": None, "xdp": 0.24},
    ("ifb", "1514", "vxlan"): {"socket": None, "socket-gso": None, "xdp": 0.30},
    ("ifb", "imix", "gre"): {"socket": None, "xdp": 0.24},
    ("ifb", "imix", "erspan2"): {"socket": None, "xdp": 0.24},
}
RECEIVED = [200, 1400]  # bytes of the frames in the tunnels that are received
RECEIVE_PACE = 100_000
# Of each way to receive: what it stands beside.
BESIDE = {"pcap": "tcpdump", "tap": "vxlan"}
LEAST_DRAIN, LEAST_SCALING, MOST_P99_MS, MOST_IDLE = 2.5, 1.6, 5.0, 0.1
# A limit of CPU time, in percent of a core, under five times that load: what may be used, and what an IDS must see whole.
LIMIT, TIMES, MOST_USED, LEAST_COMPLETE, MOST_ASTRAY = 10, 5, 12, 0.99, 0.02
SESSIONS, MOST_START, MOST_KIB, MOST_IDLE_OF_ALL = 200, 2.0, 2048, 1.0
# Of honest frames beside super-frames of tiny segments: the part that arrives. Of a flood of learnt flows: times a limit. Of the
# CPU time of a mirror: the part that the search for relays takes.
LEAST_HONEST, MOST_TIMES, MOST_SEARCH = 0.95, 1.5, 0.03


class Bench:
    """One run: what is chosen, what was found, and the table as it grows."""

    def __init__(self, lab, chosen):
        self.lab, self.chosen, self.quick = lab, chosen, chosen.quick
        self.taps = [which for which in TRANSMIT if which in chosen.transmit]
        self.sizes = [size for size in SIZES if size in chosen.size]
        self.out = sys.stderr if chosen.json else sys.stdout
        self.found = {"rows": [], "costs": [], "missing": [], "memory_kib": {}}

    def say(self, text=""):
        print(text, file=self.out, flush=True)

    def interleaved(self, taps, rounds, once, about):
        """Samples of each tap from once(tap); a tap that does not start is reported as missing, with the reason."""
        samples = {which: [] for which in taps}
        for number in range(rounds):
            turn = number % len(taps)
            for which in taps[turn:] + taps[:turn]:
                if which not in samples:
                    continue
                try:
                    samples[which].append(once(which))
                except Refused as refused:
                    del samples[which]
                    transmit, workers = which if isinstance(which, tuple) else (which, None)
                    missing = {"transmit": transmit, **({"workers": workers} if workers else {}), **about}
                    self.found["missing"].append({**missing, "reason": str(refused)})
                    self.say(f"missing: {' '.join(map(str, missing.values()))}: {refused}")
        return samples

    def costs(self):
        """CPU ns a frame: the rows."""
        rounds, seconds, megabytes = (5, 0.25, 30) if self.quick else (11, 0.6, 120)
        self.say(f"{'CPU ns a frame':34}{'tap':>7}{'baseline':>10}{'ratio':>8}{'goal':>8}{'traffic +':>12}{'lost':>8}")
        for (sink, size, encapsulation), bars in BARS.items():
            if sink not in self.chosen.sink or size not in self.sizes or encapsulation not in self.chosen.encap:
                continue
            # A quick run leaves out what has no goal.
            farspan = [tap for tap in self.taps if tap in bars and not (self.quick and bars[tap] is None)]
            if not farspan:
                continue
            base, traffic = "baseline", lambda: self.lab.generate(size, PACE, seconds)
            if size == "tcp":
                base, traffic = "socket", lambda: self.lab.bulk(megabytes)
            taps = list(dict.fromkeys([base, *farspan, *(["none"] if sink == "veth" and encapsulation == "vxlan" else [])]))
            about = {"sink": sink, "size": size, "encap": encapsulation}
            samples = self.interleaved(taps, rounds, lambda which: measure.cost(
                self.lab, None if which == "none" else which, sink, encapsulation, traffic), about)
            for which in samples:
                self.row(which, base, about, samples, bars)
        self.say()

    def row(self, which, base, about, samples, bars):
        """One line of the table, one object of `rows` and one of `costs`, which says more."""
        def median(of, what):
            return statistics.median(sample[what] for sample in samples[of])

        details = {"transmit": which, **about, "samples": samples[which]}
        if "none" in samples:
            details["traffic_added_ns"] = round(median(which, "traffic_ns") - median("none", "traffic_ns"))
        if which == "none":
            self.found["costs"].append({**details, "traffic_ns": round(median("none", "traffic_ns"))})
            return
        lost = sum(sample["lost"] for sample in samples[which])
        self.found["costs"].append({**details, "ns": round(median(which, "ns")), "lost": lost})
        memory = max(sample["memory_kib"] for sample in samples[which])
        self.found["memory_kib"][which] = max(memory, self.found["memory_kib"].get(which, 0))
        text = f"{which:11}{about['sink']:6}{about['size']:6}{about['encap']:11}{median(which, 'ns'):7.0f}"
        if which == "baseline":
            numbers = f"{'':26}"
        elif base in samples:
            ns, baseline, ratio = median(which, "ns"), median(base, "ns"), paired(samples[which], samples[base], "ns")
            self.found["rows"].append({"transmit": which, **about, "ns": round(ns), "baseline_ns": round(baseline),
                                       "ratio": round(ratio, 3)})
            numbers = f"{baseline:10.0f}{ratio:8.3f}{goal(ratio, most=bars[which]):>8}"
        else:
            return
        added = details.get("traffic_added_ns")
        self.say(f"{text}{numbers}{'' if added is None else f'{added:+}':>12}{lost or '':>8}")

    def verified(self):
        """Every checksum of a TCP transfer, at the analyzer."""
        if "tcp" not in self.sizes:
            return
        about = {"checksums": "tcp"}
        samples = self.interleaved(self.taps, 1, lambda which: measure.checksums(self.lab, which, 8), about)
        self.found["checksums"] = [{"transmit": which, **sample[0]} for which, sample in samples.items()]
        for each in self.found["checksums"]:
            self.say(f"{each['transmit']:11}TCP at the analyzer: {each['verified']} segments verified, {each['wrong']} wrong "
                     f"checksums, longest frame {each['longest']}")
        self.say()

    def rates(self):
        """The highest loss-free rates."""
        rounds, seconds, tries = (1, 0.25, 4) if self.quick else (5, 0.5, 6)
        self.found["rates"] = []
        self.say(f"{'highest loss-free rate, veth, vxlan':34}{'frames/s':>10}")
        for size in [size for size in self.sizes if size != "tcp" and (size == "imix" or not self.quick)]:
            samples = self.interleaved(["baseline", *self.taps], rounds, lambda which: measure.loss_free(
                self.lab, which, size, seconds, tries), {"rate": size})
            for which, rates in samples.items():
                rate, limited = statistics.median(rate for rate, _ in rates), any(limited for _, limited in rates)
                self.found["rates"].append({"transmit": which, "size": size, "frames_per_second": round(rate),
                                            "generator_limited": limited, "samples": [round(rate) for rate, _ in rates]})
                self.say(f"{which:17}{size:17}{rate:10.0f}{'  or more: the generator ends here' if limited else ''}")
        self.say()

    def delays(self):
        """From the tapped interface to the analyzer's."""
        rounds, seconds = (5, 0.4) if self.quick else (5, 2.0)
        self.found["delays_ms"] = []
        self.say(f"{'delay in ms, imix, veth, vxlan':34}{'p50':>7}{'p99':>10}{'largest':>10}{'goal':>6}")
        for pace in PACES:
            samples = self.interleaved(["baseline", *[tap for tap in self.taps if tap != "socket"]], rounds,
                                       lambda which: measure.delay(self.lab, which, pace, seconds), {"delay": pace})
            for which, taken in samples.items():
                row = {key: round(statistics.median(sample[key] for sample in taken), 3) for key in taken[0]}
                self.found["delays_ms"].append({"transmit": which, "frames_per_second": pace, **row, "samples": taken})
                verdict = "" if which == "baseline" else goal(row["p99"], most=MOST_P99_MS)
                self.say(f"{which:17}{f'{pace}/s':17}{row['p50']:7.2f}{row['p99']:10.2f}{row['max']:10.2f}{verdict:>6}")
        self.say()

    def idles(self):
        """CPU of taps that have nothing to do."""
        ready = self.interleaved(["baseline", *[tap for tap in self.taps if tap != "socket"]], 1,
                                 lambda which: measure.idle(self.lab, [which], 0.1), {"idle": True})
        self.found["idle"] = measure.idle(self.lab, list(ready), 5 if self.quick else 20)
        for which, still in self.found["idle"].items():
            verdict = "" if which == "baseline" else goal(still["cpu_percent"], most=MOST_IDLE, digits=1)
            self.say(f"{which:11}idle: {still['cpu_percent']:.4f} % of a core ({verdict or 'no goal'}), "
                     f"{still['memory_kib'] / 1024:.1f} MiB resident")
        self.say()

    def drains(self):
        """Rings that were filled while the tap was paused."""
        self.found["drains"], self.found["apart"] = [], []
        self.say(f"{'ring filled while paused, vxlan':34}{'frames/CPU-s':>13}{'ratio':>7}{'goal':>8}{'frames/s':>11}{'ratio':>7}"
                 f"{'goal':>8}")
        for sink in [sink for sink in ("veth", "ifb") if sink in self.chosen.sink and (sink == "veth" or not self.quick)]:
            for size in [size for size in self.sizes if size != "tcp" and (size == "imix" or not self.quick)]:
                taps = [("baseline", 1), *[(tap, workers) for tap in self.taps for workers in (1, 2)]]
                apart = [measure.apart(0.5) for _ in range(5)]
                self.found["apart"].append({"sink": sink, "size": size, "ratio": round(statistics.median(apart), 2),
                                            "samples": apart})
                self.say(f"{'':11}2  processes that share nothing, before this:{'':23}{statistics.median(apart):7.2f}")
                samples = self.interleaved(taps, 5, lambda which: measure.drain(
                    self.lab, which[0], size, sink, 120_000, which[1] if which[1] > 1 else None), {"drain": size, "sink": sink})
                self.drained(sink, size, samples)
        self.say()

    def drained(self, sink, size, samples):
        def median(which, what):
            return statistics.median(sample[what] for sample in samples[which])

        for (which, workers), taken in samples.items():
            per_cpu, rate = median((which, workers), "frames_per_cpu_second"), median((which, workers), "frames_per_second")
            row = {"transmit": which, "workers": workers, "sink": sink, "size": size,
                   "frames_per_cpu_second": round(per_cpu), "frames_per_second": round(rate),
                   "lost": sum(sample["lost"] for sample in taken)}
            text = f"{which:11}{workers}  {sink:6}{size:14}{per_cpu:13.0f}"
            if workers == 1 and which != "baseline":
                row["to_baseline"] = round(paired(taken, samples["baseline", 1], "frames_per_cpu_second"), 2)
                # Without GSO every datagram passes the kernel's stack alone: the goal is for the other two.
                mark = "" if which == "socket" else goal(row["to_baseline"], least=LEAST_DRAIN)
                text += f"{row['to_baseline']:7.2f}{mark:>8}{rate:11.0f}"
            elif workers == 2 and (which, 1) in samples:
                row["to_one_worker"] = round(paired(taken, samples[which, 1], "frames_per_second"), 2)
                text += f"{'':15}{rate:11.0f}{row['to_one_worker']:7.2f}{goal(row['to_one_worker'], least=LEAST_SCALING):>8}"
            else:
                text += f"{'':15}{rate:11.0f}"
            self.found["drains"].append({**row, "samples": taken})
            self.say(text + (f"  lost {row['lost']}" if row["lost"] else ""))

    def receives(self):
        """CPU ns a frame that comes out of a tunnel: into a file beside tcpdump, into an interface beside the kernel's."""
        rounds, seconds = (5, 0.5) if self.quick else (7, 2.0)
        self.found["receive"] = []
        self.say(f"{'received, CPU ns a frame':34}{'own':>7}{'traffic +':>11}{'together':>10}{'ratio':>8}{'own ratio':>11}{'lost':>8}")
        for encapsulation in [encap for encap in ("vxlan", "erspan2") if encap in self.chosen.encap]:
            for size in RECEIVED:
                ends = ["none", "tcpdump", "pcap", *(["vxlan", "tap"] if encapsulation == "vxlan" else [])]
                about = {"encap": encapsulation, "size": size}
                samples = self.interleaved(ends, rounds, lambda which: receiver.cost(
                    self.lab, which, encapsulation, size, RECEIVE_PACE, seconds), {"receive": encapsulation, "size": size})
                self.received(about, samples)
        self.say()

    def received(self, about, samples):
        def median(which, what):
            return statistics.median(sample[what] for sample in samples[which])

        rows = {}
        for which, taken in samples.items():
            if which == "none":
                continue
            own, added = median(which, "ns"), median(which, "traffic_ns") - median("none", "traffic_ns")
            rows[which] = row = {"to": which, **about, "ns": round(own), "traffic_added_ns": round(added),
                                 "total_ns": round(own + added), "lost": sum(sample["lost"] for sample in taken)}
            text = f"{which:11}{about['encap']:11}{about['size']:<12}{own:7.0f}{added:+11.0f}{own + added:10.0f}"
            beside = rows.get(BESIDE.get(which))
            if beside and beside["total_ns"] > 0:
                row |= {"beside": beside["to"], "ratio": round(row["total_ns"] / beside["total_ns"], 2)}
                text += f"{row['ratio']:8.2f}"
                if beside["ns"]:
                    row["own_ratio"] = round(row["ns"] / beside["ns"], 2)
                    text += f"{row['own_ratio']:11.2f}"
            self.found["receive"].append({**row, "samples": taken})
            self.say(text + (f"  lost {row['lost']}" if row["lost"] else ""))

    def governors(self):
        """A limit of CPU time under several times that load, before an IDS."""
        runs, seconds = (1, 15) if self.quick else (3, 30)
        try:
            pace = PACE / 2
            for _ in range(2):
                cores, rate = daemon.load(self.lab, pace, 3)
                pace = round(LIMIT * TIMES / 100 * rate / cores)
            cores, rate = daemon.load(self.lab, pace, 3)
            self.found["governor"] = {"limit_percent": LIMIT, "frames_per_second": round(rate),
                                      "load_percent": round(cores * 100, 1), "runs": []}
            self.say(f"limit.cpu = {LIMIT} %, where {rate:.0f} frames/s take {cores:.1%} of a core without it")
            for _ in range(runs):
                self.governor(daemon.governed(self.lab, pace, seconds, f"{LIMIT}%"))
        except Refused as refused:
            self.found["missing"].append({"governor": LIMIT, "reason": str(refused)})
            self.say(f"missing: governor: {refused}")
        self.say()

    def governor(self, row):
        self.found["governor"]["runs"].append(row)
        astray = abs(row["kept_reported"] - row["kept_arrived"])
        self.say(f"  CPU {row['cpu_percent']:.1f} % {goal(row['cpu_percent'], most=MOST_USED, digits=0)}, kept "
                 f"{row['kept_reported']:.1%} as reported, {row['kept_arrived']:.1%} at the analyzer "
                 f"{goal(astray, most=MOST_ASTRAY)}; of {row['seen']} conversations seen, {row['complete']:.2%} are whole "
                 f"{goal(row['complete'], least=LEAST_COMPLETE)}; lost {row['kernel_dropped']}, by Suricata "
                 f"{row['lost_by_suricata']}")

    def many(self):
        """Hundreds of sessions that have nothing to do, without and with a limit for all of them together."""
        self.found["sessions"] = []
        for limit in ("", '[limit]\ncpu = "50%"\n'):
            row = daemon.sessions(SESSIONS, 5 if self.quick else 20, limit)
            self.found["sessions"].append(row)
            self.say(f"{SESSIONS} sessions{', [limit] cpu' if limit else ''}: start {row['start_seconds']:.2f} s "
                     f"{goal(row['start_seconds'], most=MOST_START)}, {row['resident_kib_each']} KiB each "
                     f"{goal(row['resident_kib_each'], most=MOST_KIB, digits=0)}, idle {row['cpu_percent']:.3f} % of a core "
                     f"{goal(row['cpu_percent'], most=MOST_IDLE_OF_ALL)}")
        self.say()

    def hostiles(self):
        """What foreign traffic may do to a mirror, and what it costs to look for loops."""
        self.found["hostile"] = found = {}
        found["super_frames"] = row = hostile.beside_super_frames(self.lab, 3 if self.quick else 10)
        self.say(f"beside {hostile.ATTACK} super-frames a second, segments of {'/'.join(map(str, hostile.SEGMENTS))} bytes: "
                 f"{row['part']:.1%} of {hostile.HONEST} frames a second arrive {goal(row['part'], least=LEAST_HONEST)}")
        found["learnt_flows"] = row = hostile.learnt_flows(self.lab, 3 if self.quick else 10)
        self.say(f"limit.rate = {row['limit']}, {row['offered']} frames a second of {row['learnt']} flows that it was seen to keep: "
                 f"{row['times']:.2f} times the limit {goal(row['times'], most=MOST_TIMES)}")
        hostile.addresses(self.lab)
        rounds, seconds = (7, 0.4) if self.quick else (15, 1.0)
        samples = self.interleaved([0, hostile.MORE_ADDRESSES], rounds, lambda more: hostile.many_addresses(
            self.lab, more, "1514", PACE, seconds), {"search": "1514"})
        ratio = paired(samples[hostile.MORE_ADDRESSES], samples[0], "ns")
        search = (ratio - 1) / hostile.MORE_ADDRESSES
        found["search"] = {"addresses": hostile.MORE_ADDRESSES, "ratio": round(ratio, 3), "part": round(search, 4),
                           "ns": round(statistics.median(sample["ns"] for sample in samples[0])), "samples": samples}
        self.say(f"search for relays, 1514 bytes, socket-gso: {search:.1%} of {found['search']['ns']} ns a frame "
                 f"{goal(search * 100, most=MOST_SEARCH * 100, digits=0)} %")
        self.say()

    def run(self):
        steps = {"cost": self.costs, "checksums": self.verified, "rate": self.rates, "delay": self.delays,
                 "idle": self.idles, "drain": self.drains, "receive": self.receives, "governor": self.governors,
                 "sessions": self.many, "hostile": self.hostiles}
        self.found["conditions"] = conditions()
        for part in PARTS:
            if part in self.chosen.part:
                steps[part]()
        self.found["conditions"]["load_at_end"] = os.getloadavg()[0]
        self.found["goals"] = [
            {"transmit": transmit, "sink": sink, "size": size, "encap": encapsulation, "most": most}
            for (sink, size, encapsulation), bars in BARS.items() for transmit, most in bars.items() if most is not None]
        for which, memory in self.found["memory_kib"].items():
            self.say(f"{which:11}resident under load: {memory / 1024:.1f} MiB")


def paired(samples, base, what):
    """The median of the ratios of two taps' samples of the same round."""
    return statistics.median(sample[what] / other[what] for sample, other in zip(samples, base))


def goal(value, most=None, least=None, digits=2):
    """How a goal is shown: what it is, and a mark where it is missed."""
    if most is not None:
        return f"{'' if value <= most else '!'}<{most:.{digits}f}"
    if least is not None:
        return f"{'' if value >= least else '!'}>{least:.{digits}f}"
    return ""


def conditions():
    models = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    return {"kernel": platform.release(), "cpu": models[0] if models else platform.machine(), "cores": os.cpu_count(),
            "queues": QUEUES, "pace": PACE, "flows": 64, "load_at_start": os.getloadavg()[0]}


def main():
    arguments = argparse.ArgumentParser(prog="scripts/bench", description="what farspan costs, against a baseline")
    arguments.add_argument("--quick", action="store_true", help="shorter rounds, only what has a goal: under six minutes")
    arguments.add_argument("--json", action="store_true", help="all results and samples as JSON on standard output")
    for name, choices in (("transmit", list(TRANSMIT)), ("sink", ["veth", "ifb"]), ("size", SIZES),
                          ("encap", ENCAPSULATIONS), ("part", PARTS)):
        arguments.add_argument(f"--{name}", nargs="+", choices=choices, default=choices, help="only these")
    chosen = arguments.parse_args()
    with Lab() as lab:
        bench = Bench(lab, chosen)
        try:
            bench.run()
        finally:  # what was found before something failed has cost minutes
            if chosen.json:
                json.dump(bench.found, sys.stdout)
                print()


if __name__ == "__main__":
    main()
