//! Source addresses that a container may use on its network: a table of the family `bridge`.

use super::super::address::{Subnet, octets};
use super::super::netlink::Netlink;
use super::super::nft::{self, ChainHook, Expression as E, Family, Field, Transaction};
use super::Sender;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};

const GUARDED: &str = "guarded";
const SENDERS: &str = "senders";
const SENDERS_IP6: &str = "senders6";

/// ARP and IPv6's neighbour discovery are not authenticated. So a container says
/// nothing of addresses that it does not have: it cannot pass for its neighbour, or for the way out. The rules cost a packet
/// of IPv4 one comparison.
pub(super) fn compose(change: &mut Transaction) {
    const ARP: u16 = 0x806;
    const IPV6: u16 = 0x86dd;
    const ICMPV6: u8 = 58;
    const NEIGHBOUR_SOLICITATION: u8 = 135;
    const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
    change.replace_table();
    change.set(GUARDED, nft::TYPE_INTERFACE, 16);
    change.set(SENDERS, nft::TYPE_INTERFACE << 6 | Family::Ip.address_type(), 20);
    change.set(SENDERS_IP6, nft::TYPE_INTERFACE << 6 | Family::Ip6.address_type(), 32);
    change.chain("prerouting", &ChainHook { kind: "filter", number: nft::PREROUTING, priority: -300 });
    let unlike = |field, subnet| E::FieldOutside { field, subnet };
    let unspecified = Subnet::new(Ipv4Addr::UNSPECIFIED, 32);
    // meta protocol arp arp saddr ip != 0.0.0.0 iifname @guarded iifname . arp saddr ip != @senders drop
    let sender = Field::ArpSender;
    change.rule(
        "prerouting",
        &[
            E::EtherType(ARP),
            unlike(sender, unspecified),
            E::FromOneOf(GUARDED),
            E::NotAmong { set: SENDERS, field: sender },
            E::Drop,
        ],
    );
    let link_local = Subnet::new(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10);
    let unspecified = Subnet::new(Ipv6Addr::UNSPECIFIED, 128);
    let kinds = [(NEIGHBOUR_SOLICITATION, Field::Ip6Source), (NEIGHBOUR_ADVERTISEMENT, Field::Target)];
    for (first, field) in kinds {
        // meta protocol ip6 meta l4proto icmpv6 icmpv6 type 135-136 ip6 saddr != { ::, fe80::/10 } iifname @guarded
        //   iifname . ip6 saddr != @senders6 drop
        change.rule(
            "prerouting",
            &[
                E::EtherType(IPV6),
                E::Protocol(ICMPV6),
                E::IcmpType { kind: first, up_to: NEIGHBOUR_ADVERTISEMENT },
                unlike(field, unspecified),
                unlike(field, link_local),
                E::FromOneOf(GUARDED),
                E::NotAmong { set: SENDERS_IP6, field },
                E::Drop,
            ],
        );
    }
}

/// Enters a container's end on a bridge, or takes it out.
pub(super) fn change(transaction: &mut Transaction, sender: &Sender, add: bool) {
    let mut name = sender.interface.clone().into_bytes();
    name.resize(16, 0);
    let mut keys = vec![(GUARDED, name.clone())];
    for address in &sender.addresses {
        let set = if address.is_ipv6() { SENDERS_IP6 } else { SENDERS };
        keys.push((set, [name.clone(), octets(*address)].concat()));
    }
    for (set, key) in keys {
        if add { transaction.add_element(set, &key, None) } else { transaction.delete_element(set, &key) }
    }
}

/// Whether the kernel has nftables for bridges, which guard a container's neighbours. What is tried leaves nothing.
///
/// # Errors
/// The kernel's.
pub fn try_guard() -> io::Result<()> {
    let mut change = Transaction::new(Family::Bridge, "wharf-check");
    compose(&mut change);
    change.delete_table();
    change.apply(&Netlink::netfilter()?)
}
