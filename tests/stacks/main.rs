//! Real stacks on real containers, driven by the real binary. Root, and what `make test-packages` installs, are needed.

mod api;
mod attributes;
mod builds;
mod classic;
mod commands;
mod concurrency;
mod crashes;
mod durability;
mod edges;
mod examples;
mod filters;
mod forms;
mod hostile;
mod images;
mod interrupts;
mod lifecycle;
mod networks;
mod scenarios;
mod services;
mod sockets;
mod sources;
mod starting;
mod streams;
mod support;
mod updates;
mod wordpress;
