//! farspan: a SPAN port made of software.
//!
//! It copies Ethernet frames from a host's interfaces, makes them look exactly as they would on a wire, wraps them in
//! VXLAN, GRE, ERSPAN or Geneve, and sends them to remote analyzers.
//!
//! # The way of a frame
//!
//! Each step is a module, in the order in which a frame meets them. One worker thread takes it all the way
//! (`session/worker.rs`, `session/path.rs`); nothing on that way allocates, locks, reads a clock or logs.
//!
//! 1. [`source`] lends a [`Frame`](frame::Frame): bytes that belong to the capture buffer, and what is known about
//!    them.
//! 2. [`select`] decides whether it goes on, and changes nothing.
//! 3. [`normalise`] turns what the host's offloads left unfinished into what the wire carried: one frame becomes any
//!    number of [`WireFrame`](frame::WireFrame)s, each a rewritten head and a borrowed body.
//! 4. [`decapsulate`] takes tunnels off wire frames, in sessions that want it; what is chosen is then chosen of the frames
//!    inside.
//! 5. [`destination`] fits each wire frame to the path MTU, encapsulates it with the one copy of its life, and hands
//!    batches of datagrams to the kernel.
//! 6. [`ledger`] counts the one fate of every frame, and proves that nothing is missing.
//!
//! Beside the path: [`wire`] knows byte layouts and does no I/O, [`kernel`] asks and watches the kernel over netlink,
//! [`sys`] is the only place that may say `unsafe`. Above it: [`config`] turns words into a plan, [`check`] explains
//! the plan before it runs, [`probe`] proves that it arrives, [`compare`] says whether two captures hold the same frames,
//! [`daemon`] keeps many sessions running, [`privilege`] takes what they do not need away, [`cli`] is the command line.
//! Below all of it: [`quantity`] has numbers that cannot hold nonsense, [`error`] says what an operator reads when something
//! fails, [`repeated`] keeps what happens again and again from being said each time, [`flow`] tells which frames belong
//! together, [`installation`] stores the key of that, [`let_go`] has patience with what somebody else still holds,
//! [`spool`] writes what may block, [`escape`] shows text that others choose.

pub mod error;
pub mod escape;
pub mod flow;
pub mod frame;
pub mod installation;
pub mod let_go;
pub mod quantity;
pub mod repeated;
pub mod spool;

pub mod decapsulate;
pub mod destination;
pub mod ledger;
pub mod lengths;
pub mod normalise;
pub mod select;
pub mod session;
pub mod source;

pub mod kernel;
pub mod sys;
pub mod wire;

pub mod check;
pub mod cli;
pub mod compare;
pub mod config;
pub mod daemon;
pub mod privilege;
pub mod probe;
