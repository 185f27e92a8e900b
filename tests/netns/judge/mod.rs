//! Judges that are not ours: what arrived, according to tshark, Suricata, the kernel and Open vSwitch.

mod capture;
mod kernel_vxlan;
mod open_vswitch;
pub mod suricata;
pub mod tshark;

pub use capture::{Capture, frames_of, truncated_or_foreign};
pub use kernel_vxlan::KernelVxlan;
pub use open_vswitch::OpenVswitch;
pub use suricata::Suricata;
