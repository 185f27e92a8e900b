//! What keeps a session small: samples, limits, priorities.

use crate::quantity::{CpuShare, Nice, SampleRate, Share};

/// Which frames are mirrored at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SamplePlan {
    /// One in so many.
    pub rate: SampleRate,
    /// So many of what.
    pub by: SampleBy,
}

impl Default for SamplePlan {
    /// All of them.
    fn default() -> Self {
        Self { rate: SampleRate::ALL, by: SampleBy::Flow }
    }
}

/// What a sample counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SampleBy {
    /// Whole flows, both directions of each: for analyzers that follow conversations.
    #[default]
    Flow,
    /// Single frames: for statistics.
    Frame,
}

/// What a session may take from its host. Where one is used up, whole flows are left out.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LimitPlan {
    /// Bits a second of what the destinations send or write: outer IP packets, records.
    pub bandwidth: Option<f64>,
    /// Frames a second that go on to the destinations.
    pub rate: Option<f64>,
    /// CPU time of the workers.
    pub cpu: Option<CpuShare>,
    /// Bytes of capture buffers. This one leaves nothing out.
    pub memory: Option<u64>,
    /// Load of the interfaces that the tunnels leave by, whoever makes it: a share of the link's speed.
    pub underlay: Option<Share>,
    /// Share of the time in which somebody on this host waits for a CPU (the kernel's pressure stall information).
    pub pressure: Option<Share>,
}

impl LimitPlan {
    /// Whether there is one that leaves flows out.
    pub fn is_any(&self) -> bool {
        let Self { bandwidth, rate, cpu, memory: _, underlay, pressure } = self;
        bandwidth.is_some() || rate.is_some() || cpu.is_some() || underlay.is_some() || pressure.is_some()
    }
}

/// How the workers stand back behind other programs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PriorityPlan {
    /// Their nice value; as farspan was started unless given.
    pub nice: Option<Nice>,
    /// How the kernel schedules them.
    pub scheduling: Scheduling,
    /// The CPUs that they may use, all of them; those of the process when there is none.
    pub cpus: Vec<usize>,
}

/// How the kernel schedules threads, sched(7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scheduling {
    /// As most programs.
    #[default]
    Other,
    /// As a computation that nobody waits for: woken threads of others come first.
    Batch,
    /// Only when no other program wants the CPU.
    Idle,
}
