//! The few nftables messages that wharf needs, in netlink: no `nft` binary, everything in one transaction.
//!
//! Above each rule stands what `nft list ruleset` shows of it.

mod attributes;
mod expression;

use super::address::IpFamily;
use super::netlink::{self, NLM_F_APPEND, NLM_F_CREATE, Netlink, NetlinkMessage};
use attributes::{LIST_ELEM, chain, data, element, elements, rule, set, table};
pub use expression::{CT_STATE, CT_STATUS, DNAT, ESTABLISHED, Expression, Field, IIFNAME, OF_CONNECTION, OIFNAME, Side};
use std::io;

const SUBSYSTEM: u16 = (libc::NFNL_SUBSYS_NFTABLES as u16) << 8;

/// The first of nft's 4-byte registers; an interface's name and an address of IPv6 take four of them.
const R0: u32 = libc::NFT_REG32_00 as u32;

/// The family of a table, as NFPROTO_* number it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Inet = 1,
    Ip = 2,
    Bridge = 7,
    Ip6 = 10,
}

impl From<IpFamily> for Family {
    fn from(family: IpFamily) -> Self {
        match family {
            IpFamily::V4 => Family::Ip,
            IpFamily::V6 => Family::Ip6,
        }
    }
}

impl Family {
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
    messages: Vec<NetlinkMessage>,
}

/// Where a base chain hangs.
pub struct ChainHook {
    pub kind: &'static str,
    pub number: u32,
    pub priority: i32,
}

pub const PREROUTING: u32 = libc::NF_INET_PRE_ROUTING as u32;
pub const FORWARD: u32 = libc::NF_INET_FORWARD as u32;
pub const OUTPUT: u32 = libc::NF_INET_LOCAL_OUT as u32;
pub const POSTROUTING: u32 = libc::NF_INET_POST_ROUTING as u32;

impl Transaction {
    pub fn new(family: Family, table: &str) -> Self {
        Transaction { family, table: table.to_string(), messages: Vec::new() }
    }

    /// The next commands are about the table of the same name in another family.
    pub fn switch_to(&mut self, family: Family) {
        self.family = family;
    }

    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// A message about the table. Every kind names it by the same attribute number.
    fn message(&self, kind: i32, flags: u16) -> NetlinkMessage {
        NetlinkMessage::new(SUBSYSTEM | kind as u16, flags, &self.family.header()).string(table::NAME, &self.table)
    }

    /// Begins the table anew: whatever it held is gone when the transaction is applied, and not before.
    pub fn replace_table(&mut self) {
        self.delete_table();
        self.messages.push(self.message(libc::NFT_MSG_NEWTABLE, NLM_F_CREATE));
    }

    /// Deletes the table; it may be missing.
    pub fn delete_table(&mut self) {
        self.messages.push(self.message(libc::NFT_MSG_NEWTABLE, NLM_F_CREATE));
        self.messages.push(self.message(libc::NFT_MSG_DELTABLE, 0));
    }

    pub fn chain(&mut self, name: &str, hook: &ChainHook) {
        let message = self
            .message(libc::NFT_MSG_NEWCHAIN, NLM_F_CREATE)
            .string(chain::NAME, name)
            .nest(chain::HOOK, |m| m.be32(chain::HOOK_NUMBER, hook.number).be32(chain::HOOK_PRIORITY, hook.priority as u32))
            .string(chain::TYPE, hook.kind);
        self.messages.push(message);
    }

    /// A map from keys to `address . port`; the numbers of the types are those by which `nft` shows them.
    pub fn port_map(&mut self, name: &str, key_type: u32, key_len: u32) {
        let data_len = (self.family.width() + 1) * 4;
        let data_type = self.family.address_type() << 6 | TYPE_PORT;
        self.new_set(name, libc::NFT_SET_MAP as u32, key_type, key_len, |m| {
            m.be32(set::DATA_TYPE, data_type).be32(set::DATA_LEN, data_len)
        });
    }

    /// A set of keys.
    pub fn set(&mut self, name: &str, key_type: u32, key_len: u32) {
        self.new_set(name, 0, key_type, key_len, |m| m);
    }

    fn new_set(
        &mut self,
        name: &str,
        flags: u32,
        key_type: u32,
        key_len: u32,
        data: impl FnOnce(NetlinkMessage) -> NetlinkMessage,
    ) {
        let message = self.message(libc::NFT_MSG_NEWSET, NLM_F_CREATE).string(set::NAME, name).be32(set::FLAGS, flags);
        let message = message.be32(set::KEY_TYPE, key_type).be32(set::KEY_LEN, key_len);
        self.messages.push(data(message).be32(set::ID, 1));
    }

    /// Adds a key, with data where the set is a map.
    pub fn add_element(&mut self, set: &str, key: &[u8], value: Option<&[u8]>) {
        let message = self.message(libc::NFT_MSG_NEWSETELEM, NLM_F_CREATE).string(elements::SET, set).nest(elements::LIST, |m| {
            m.nest(LIST_ELEM, |m| {
                let m = m.nest(element::KEY, |m| m.attr(data::VALUE, key));
                match value {
                    Some(value) => m.nest(element::DATA, |m| m.attr(data::VALUE, value)),
                    None => m,
                }
            })
        });
        self.messages.push(message);
    }

    pub fn delete_element(&mut self, set: &str, key: &[u8]) {
        let message = self
            .message(libc::NFT_MSG_DELSETELEM, 0)
            .string(elements::SET, set)
            .nest(elements::LIST, |m| m.nest(LIST_ELEM, |m| m.nest(element::KEY, |m| m.attr(data::VALUE, key))));
        self.messages.push(message);
    }

    pub fn rule(&mut self, chain: &str, expressions: &[Expression]) {
        let family = self.family;
        let message = self.message(libc::NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND);
        let message = message.string(rule::CHAIN, chain).nest(rule::EXPRESSIONS, |mut m| {
            for part in expressions.iter().flat_map(|e| e.parts(family)) {
                m = m.nest(LIST_ELEM, part);
            }
            m
        });
        self.messages.push(message);
    }

    /// Inserts a rule at the head of a chain of a foreign table, with a comment by which it is found again.
    pub fn insert_rule(&mut self, chain: &str, comment: &str, expressions: &[Expression]) {
        let family = self.family;
        let message =
            self.message(libc::NFT_MSG_NEWRULE, NLM_F_CREATE).string(rule::CHAIN, chain).nest(rule::EXPRESSIONS, |mut m| {
                for part in expressions.iter().flat_map(|e| e.parts(family)) {
                    m = m.nest(LIST_ELEM, part);
                }
                m
            });
        self.messages.push(message.attr(rule::USERDATA, &user_data(comment)));
    }

    pub fn delete_rule(&mut self, chain: &str, handle: u64) {
        let message = self.message(libc::NFT_MSG_DELRULE, 0).string(rule::CHAIN, chain).attr(rule::HANDLE, &handle.to_be_bytes());
        self.messages.push(message);
    }

    /// Applies the changes.
    ///
    /// # Errors
    /// The kernel's; nothing has changed then.
    pub fn apply(self, netlink: &Netlink) -> io::Result<()> {
        let bracket = |kind| NetlinkMessage::bracket(kind as u16, &[0, 0, 0, libc::NFNL_SUBSYS_NFTABLES as u8]);
        let mut batch = vec![bracket(libc::NFNL_MSG_BATCH_BEGIN)];
        batch.extend(self.messages);
        batch.push(bracket(libc::NFNL_MSG_BATCH_END));
        netlink.send(&batch).map_err(|(_, e)| e)
    }
}

/// A rule's comment as `nft` keeps it: type 0, length, text.
fn user_data(comment: &str) -> Vec<u8> {
    let mut bytes = vec![0, comment.len() as u8 + 1];
    bytes.extend_from_slice(comment.as_bytes());
    bytes.push(0);
    bytes
}

/// A chain of a foreign table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its policy is `drop`.
    pub drops_by_default: bool,
}

/// Looks for a chain.
pub fn chain(netlink: &Netlink, family: Family, table: &str, chain: &str) -> Option<Chain> {
    let ask = NetlinkMessage::new(SUBSYSTEM | libc::NFT_MSG_GETCHAIN as u16, 0, &family.header());
    let ask = ask.string(table::NAME, table).string(chain::NAME, chain);
    let answers = netlink.ask(ask).ok()?;
    let drops =
        |answer: &Vec<u8>| attribute(answer, chain::POLICY).is_some_and(|policy| policy == (libc::NF_DROP as u32).to_be_bytes());
    answers.first().map(|answer| Chain { drops_by_default: drops(answer) })
}

/// Whether a notification is about chains or rules of one of the tables: anything but sets and their elements.
pub fn concerns(notification: &[u8], tables: &[&str]) -> bool {
    const NLMSG_HEADER: usize = 16;
    const SETS: std::ops::RangeInclusive<i32> = libc::NFT_MSG_NEWSET..=libc::NFT_MSG_NEWGEN;
    let mut rest = notification;
    while rest.len() >= NLMSG_HEADER {
        let length = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
        let kind = u16::from_ne_bytes([rest[4], rest[5]]);
        let Some(message) = rest.get(NLMSG_HEADER..length.max(NLMSG_HEADER)) else { return false };
        let table = attribute(message, table::NAME).map(|name| name.strip_suffix(&[0]).unwrap_or(name));
        let named = tables.iter().any(|name| table == Some(name.as_bytes()));
        if kind & 0xff00 == SUBSYSTEM && !SETS.contains(&i32::from(kind & 0xff)) && named {
            return true;
        }
        rest = rest.get(length.max(NLMSG_HEADER).next_multiple_of(4)..).unwrap_or_default();
    }
    false
}

/// The handles of the rules of a chain that carry a comment.
pub fn rules_of(netlink: &Netlink, family: Family, table: &str, chain: &str, comment: &str) -> Vec<u64> {
    const NLM_F_DUMP: u16 = libc::NLM_F_DUMP as u16;
    let ask = NetlinkMessage::new(SUBSYSTEM | libc::NFT_MSG_GETRULE as u16, NLM_F_DUMP, &family.header());
    let ask = ask.string(table::NAME, table).string(rule::CHAIN, chain);
    let wanted = user_data(comment);
    let rules = netlink.ask(ask).unwrap_or_default();
    let ours = rules.iter().filter(|answer| attribute(answer, rule::USERDATA).is_some_and(|data| data == wanted));
    ours.filter_map(|answer| Some(u64::from_be_bytes(attribute(answer, rule::HANDLE)?.try_into().ok()?))).collect()
}

/// The value of an attribute of an answer, which begins with the family's own header.
fn attribute(answer: &[u8], kind: u16) -> Option<&[u8]> {
    const NFGENMSG: usize = 4;
    netlink::attribute(answer.get(NFGENMSG..)?, kind)
}

/// Numbers of types by which `nft` shows keys (nftables, `include/datatype.h`).
const TYPE_IPV4: u32 = 7;
const TYPE_IPV6: u32 = 8;
pub const TYPE_INTERFACE: u32 = 41;
pub const TYPE_PROTOCOL: u32 = 12;
pub const TYPE_PORT: u32 = 13;
