//! Tunnel headers for one destination.
