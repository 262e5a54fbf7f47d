//! The few nftables messages that wharf needs, in netlink: no `nft` binary, everything in one transaction.
//!
//! Above each rule stands what `nft list ruleset` shows of it.

mod expression;

use super::netlink::{self, Message, NLM_F_APPEND, NLM_F_CREATE, Netlink};
pub use expression::{CT_STATE, CT_STATUS, DNAT, ESTABLISHED, Expression, Field, IIFNAME, OF_CONNECTION, OIFNAME, Side};
use std::io;

const SUBSYSTEM: u16 = 10 << 8;

const NFTA_LIST_ELEM: u16 = 1;

const NFTA_DATA_VALUE: u16 = 1;

/// The first of nft's 4-byte registers; an interface's name and an address of IPv6 take four of them.
const R0: u32 = 8;

/// The family of a table, as NFPROTO_* number it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Inet = 1,
    Ip = 2,
    Bridge = 7,
    Ip6 = 10,
}

impl Family {
    pub fn of(ipv6: bool) -> Self {
        if ipv6 { Family::Ip6 } else { Family::Ip }
    }

    /// struct nfgenmsg.
    fn header(self) -> [u8; 4] {
        [self as u8, 0, 0, 0]
    }

    /// Registers that an address fills.
    fn width(self) -> u32 {
        if self == Family::Ip6 { 4 } else { 1 }
    }

    /// The number by which `nft` shows an address of the family.
    pub fn address_type(self) -> u32 {
        if self == Family::Ip6 { TYPE_IPV6 } else { TYPE_IPV4 }
    }
}

/// Changes to tables, applied together or not at all.
pub struct Transaction {
    family: Family,
    table: String,
    messages: Vec<Message>,
}

/// Where a base chain hangs.
pub struct Hook {
    pub kind: &'static str,
    pub number: u32,
    pub priority: i32,
}

pub const PREROUTING: u32 = 0;

pub const FORWARD: u32 = 2;

pub const OUTPUT: u32 = 3;

pub const POSTROUTING: u32 = 4;

impl Transaction {
    pub fn new(family: Family, table: &str) -> Self {
        Transaction { family, table: table.to_string(), messages: Vec::new() }
    }

    /// What follows is about the table of the same name in another family.
    pub fn turn_to(&mut self, family: Family) {
        self.family = family;
    }

    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    fn message(&self, kind: u16, flags: u16) -> Message {
        Message::new(SUBSYSTEM | kind, flags, &self.family.header()).string(1, &self.table)
    }

    /// Begins the table anew: whatever it held is gone when the transaction is applied, and not before.
    pub fn replace_table(&mut self) {
        self.delete_table();
        self.messages.push(self.message(0, NLM_F_CREATE));
    }

    /// Deletes the table; it may be missing.
    pub fn delete_table(&mut self) {
        self.messages.push(self.message(0, NLM_F_CREATE));
        self.messages.push(self.message(2, 0));
    }

    pub fn chain(&mut self, name: &str, hook: &Hook) {
        let message = self
            .message(3, NLM_F_CREATE)
            .string(3, name)
            .nest(4, |m| m.be32(1, hook.number).be32(2, hook.priority as u32))
            .string(7, hook.kind);
        self.messages.push(message);
    }

    /// A map from keys to `address . port`; the numbers of the types are those by which `nft` shows them.
    pub fn port_map(&mut self, name: &str, key_type: u32, key_len: u32) {
        const NFT_SET_MAP: u32 = 8;
        let data_len = (self.family.width() + 1) * 4;
        let data_type = self.family.address_type() << 6 | TYPE_PORT;
        self.new_set(name, NFT_SET_MAP, key_type, key_len, |m| m.be32(6, data_type).be32(7, data_len));
    }

    /// A set of keys.
    pub fn set(&mut self, name: &str, key_type: u32, key_len: u32) {
        self.new_set(name, 0, key_type, key_len, |m| m);
    }

    fn new_set(&mut self, name: &str, flags: u32, key_type: u32, key_len: u32, data: impl FnOnce(Message) -> Message) {
        let message = self.message(9, NLM_F_CREATE).string(2, name).be32(3, flags).be32(4, key_type).be32(5, key_len);
        self.messages.push(data(message).be32(10, 1));
    }

    /// Adds a key, with data where the set is a map.
    pub fn add_element(&mut self, set: &str, key: &[u8], data: Option<&[u8]>) {
        let message = self.message(12, NLM_F_CREATE).string(2, set).nest(3, |m| {
            m.nest(NFTA_LIST_ELEM, |m| {
                let m = m.nest(1, |m| m.attr(NFTA_DATA_VALUE, key));
                match data {
                    Some(data) => m.nest(2, |m| m.attr(NFTA_DATA_VALUE, data)),
                    None => m,
                }
            })
        });
        self.messages.push(message);
    }

    pub fn delete_element(&mut self, set: &str, key: &[u8]) {
        let message = self
            .message(14, 0)
            .string(2, set)
            .nest(3, |m| m.nest(NFTA_LIST_ELEM, |m| m.nest(1, |m| m.attr(NFTA_DATA_VALUE, key))));
        self.messages.push(message);
    }

    pub fn rule(&mut self, chain: &str, expressions: &[Expression]) {
        let family = self.family;
        let message = self.message(6, NLM_F_CREATE | NLM_F_APPEND).string(2, chain).nest(4, |mut m| {
            for part in expressions.iter().flat_map(|e| e.parts(family)) {
                m = m.nest(NFTA_LIST_ELEM, part);
            }
            m
        });
        self.messages.push(message);
    }

    /// Puts a rule at the head of a chain of somebody else's, marked with a comment by which it is found again.
    pub fn insert_rule(&mut self, chain: &str, comment: &str, expressions: &[Expression]) {
        let family = self.family;
        let message = self.message(6, NLM_F_CREATE).string(2, chain).nest(4, |mut m| {
            for part in expressions.iter().flat_map(|e| e.parts(family)) {
                m = m.nest(NFTA_LIST_ELEM, part);
            }
            m
        });
        self.messages.push(message.attr(NFTA_RULE_USERDATA, &user_data(comment)));
    }

    pub fn delete_rule(&mut self, chain: &str, handle: u64) {
        let message = self.message(8, 0).string(2, chain).attr(3, &handle.to_be_bytes());
        self.messages.push(message);
    }

    /// Applies the changes.
    ///
    /// # Errors
    /// The kernel's; nothing has changed then.
    pub fn apply(self, netlink: &Netlink) -> io::Result<()> {
        let bracket = |kind| Message::bracket(kind, &[0, 0, 0, 10]);
        let mut batch = vec![bracket(0x10)];
        batch.extend(self.messages);
        batch.push(bracket(0x11));
        netlink.send(&batch).map_err(|(_, e)| e)
    }
}

const NFTA_RULE_USERDATA: u16 = 7;

/// A rule's comment as `nft` keeps it: type 0, length, text.
fn user_data(comment: &str) -> Vec<u8> {
    let mut bytes = vec![0, comment.len() as u8 + 1];
    bytes.extend_from_slice(comment.as_bytes());
    bytes.push(0);
    bytes
}

/// A chain of somebody else's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    /// What no rule decides about is dropped.
    pub drops_by_default: bool,
}

/// Looks for a chain.
pub fn chain(netlink: &Netlink, family: Family, table: &str, chain: &str) -> Option<Chain> {
    let ask = Message::new(SUBSYSTEM | 4, 0, &family.header()).string(1, table).string(3, chain);
    let answers = netlink.ask(ask).ok()?;
    let drops = |answer: &Vec<u8>| attribute(answer, 5).is_some_and(|policy| policy == [0, 0, 0, 0]);
    answers.first().map(|answer| Chain { drops_by_default: drops(answer) })
}

/// Whether a notification is about chains or rules of one of the tables: anything but sets and their elements.
pub fn concerns(notification: &[u8], tables: &[&str]) -> bool {
    const NLMSG_HEADER: usize = 16;
    const SET_ELEMENTS: std::ops::RangeInclusive<u16> = 9..=15;
    let mut rest = notification;
    while rest.len() >= NLMSG_HEADER {
        let length = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
        let kind = u16::from_ne_bytes([rest[4], rest[5]]);
        let Some(message) = rest.get(NLMSG_HEADER..length.max(NLMSG_HEADER)) else { return false };
        let table = attribute(message, 1).map(|name| name.strip_suffix(&[0]).unwrap_or(name));
        let named = tables.iter().any(|name| table == Some(name.as_bytes()));
        if kind & 0xff00 == SUBSYSTEM && !SET_ELEMENTS.contains(&(kind & 0xff)) && named {
            return true;
        }
        rest = rest.get(length.max(NLMSG_HEADER).next_multiple_of(4)..).unwrap_or_default();
    }
    false
}

/// The handles of the rules of a chain that carry a comment.
pub fn rules_of(netlink: &Netlink, family: Family, table: &str, chain: &str, comment: &str) -> Vec<u64> {
    const NLM_F_DUMP: u16 = 0x300;
    let ask = Message::new(SUBSYSTEM | 7, NLM_F_DUMP, &family.header()).string(1, table).string(2, chain);
    let wanted = user_data(comment);
    let rules = netlink.ask(ask).unwrap_or_default();
    let ours = rules.iter().filter(|rule| attribute(rule, NFTA_RULE_USERDATA).is_some_and(|data| data == wanted));
    ours.filter_map(|rule| Some(u64::from_be_bytes(attribute(rule, 3)?.try_into().ok()?))).collect()
}

/// The value of an attribute of an answer, which begins with the family's own header.
fn attribute(answer: &[u8], kind: u16) -> Option<&[u8]> {
    const NFGENMSG: usize = 4;
    netlink::attribute(answer.get(NFGENMSG..)?, kind)
}

const TYPE_IPV4: u32 = 7;

const TYPE_IPV6: u32 = 8;

pub const TYPE_INTERFACE: u32 = 41;

pub const TYPE_PROTOCOL: u32 = 12;

pub const TYPE_PORT: u32 = 13;
