//! How a ledger is shown: as a table and as JSON.
