//! A running session: its worker thread, its ledger, its end.
