//! Any bytes as what the kernel says: answers, flows, notifications of nftables.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf::network::{conntrack, netlink};

fuzz_target!(|bytes: &[u8]| {
    let mut messages = Vec::new();
    let _ = netlink::split(bytes, &mut |answer: &[u8]| messages.push(answer.to_vec()));
    for answer in messages {
        let _ = conntrack::Flow::parse(&answer);
        let _ = conntrack::deletion(&answer);
    }
    let _ = conntrack::Flow::parse(bytes);
    let _ = netlink::attribute(bytes, 1);
});
