//! The resolver of containers: names of their networks' members, and everything else from the host's resolvers.
//!
//! Each container asks at sockets of its own, so the server knows who asks, and answers only from that one's networks.
//! [`serve`] has the sockets, [`upstream`] asks other resolvers, [`message`] knows the bytes.

pub mod message;
mod serve;
mod upstream;

pub use serve::{Serving, serve};

use super::address::Addresses;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use upstream::Upstreams;

/// Seconds that an answer may be kept: containers come and go.
const TTL: u32 = 5;

/// The names of every network.
#[derive(Default)]
pub struct Names {
    known: RwLock<Zones>,
    turn: AtomicUsize,
    /// The host's resolvers.
    upstreams: Upstreams,
}

#[derive(Default)]
struct Zones {
    /// By the networks' ids.
    zones: HashMap<String, Zone>,
    /// Containers whose health checks have not succeeded yet, or fail, and those that wait for their restart. A name that others
    /// have as well leads to these.
    unfit: HashSet<String>,
    /// Containers that others are about to replace: an answer with them is not to be kept.
    leaving: HashSet<String>,
}

#[derive(Default)]
struct Zone {
    name: String,
    internal: bool,
    forward: HashMap<String, Vec<(String, Addresses)>>,
    reverse: HashMap<IpAddr, String>,
}

/// The names that a container may resolve: its networks, in the order of its interfaces.
#[derive(Clone, Debug, Default)]
pub struct View {
    pub networks: Vec<String>,
    /// The resolvers to ask instead of the host's (`dns:` of a service).
    pub servers: Vec<IpAddr>,
    /// The container's own aliases of other containers (`links:` of a service), in lower case.
    pub links: HashMap<String, String>,
}

impl Names {
    /// Enters a network, by its id, with its name. The host's resolvers are not asked for containers on internal networks alone.
    pub fn set_network(&self, network: &str, name: &str, internal: bool) {
        let mut known = self.write();
        let zone = known.zones.entry(network.to_string()).or_default();
        zone.internal = internal;
        zone.name = name.to_ascii_lowercase();
    }

    pub fn remove_network(&self, network: &str) {
        self.write().zones.remove(network);
    }

    /// Enters a container under its names; the first is the answer to a reverse question.
    pub fn insert(&self, network: &str, container: &str, names: &[String], addresses: Addresses) {
        self.write().zones.entry(network.to_string()).or_default().insert(container, names, addresses);
    }

    pub fn remove(&self, network: &str, container: &str) {
        if let Some(zone) = self.write().zones.get_mut(network) {
            zone.remove(container);
        }
    }

    /// In one step, a container's names are gone and another's are there: network, names and addresses of each.
    pub fn replace(&self, container: &str, by: &str, entries: &[(String, Vec<String>, Addresses)]) {
        let mut known = self.write();
        known.zones.values_mut().for_each(|zone| zone.remove(container));
        for (network, names, addresses) in entries {
            let zone = known.zones.entry(network.clone()).or_default();
            zone.remove(by);
            zone.insert(by, names, *addresses);
        }
    }

    /// Whether a container is to be found by a name that others have as well.
    pub fn set_fit(&self, container: &str, fit: bool) {
        let is_unfit = |known: &Zones| known.unfit.contains(container);
        if is_unfit(&self.read()) == fit {
            let mut known = self.write();
            if fit {
                known.unfit.remove(container)
            } else {
                known.unfit.insert(container.to_string())
            };
        }
    }

    /// Whether a container is about to be replaced by another.
    pub fn set_leaving(&self, container: &str, leaving: bool) {
        let mut known = self.write();
        if leaving {
            known.leaving.insert(container.to_string())
        } else {
            known.leaving.remove(container)
        };
    }

    /// A container has ended: nothing is known of it any more.
    pub fn forget(&self, container: &str) {
        let mut known = self.write();
        known.zones.values_mut().for_each(|zone| zone.remove(container));
        known.unfit.remove(container);
        known.leaving.remove(container);
    }

    fn read(&self) -> RwLockReadGuard<'_, Zones> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Zones> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The addresses of a name, beginning with another one each time, and the seconds that they may be kept.
    fn lookup(&self, view: &View, name: &str) -> (Vec<Addresses>, u32) {
        let known = self.read();
        let name = view.links.get(name).map_or(name, String::as_str);
        let visible = || view.networks.iter().filter_map(|network| known.zones.get(network));
        let plain = visible().find_map(|zone| zone.forward.get(name));
        // `NAME.NETWORK` is a member of one network; either part may have dots.
        let of_network = || {
            let mut splits = name.match_indices('.').map(|(at, _)| (&name[..at], &name[at + 1..]));
            splits.find_map(|(member, network)| visible().find(|zone| zone.name == network)?.forward.get(member))
        };
        let Some(entries) = plain.or_else(of_network) else { return (Vec::new(), TTL) };
        let ttl = if entries.iter().any(|(id, _)| known.leaving.contains(id)) { 0 } else { TTL };
        let is_fit = |(id, _): &&(String, Addresses)| !known.unfit.contains(id);
        let mut addresses: Vec<Addresses> = entries.iter().filter(is_fit).map(|(_, addresses)| *addresses).collect();
        if addresses.is_empty() {
            addresses.extend(entries.iter().map(|(_, addresses)| *addresses));
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % addresses.len().max(1);
        addresses.rotate_left(turn);
        (addresses, ttl)
    }

    /// The name of who has an address, with that of the network, as Docker gives it.
    fn reverse(&self, view: &View, address: IpAddr) -> Option<String> {
        let known = self.read();
        view.networks.iter().find_map(|network| {
            let zone = known.zones.get(network)?;
            Some(format!("{}.{}.", zone.reverse.get(&address)?, zone.name))
        })
    }

    fn may_forward(&self, view: &View) -> bool {
        let known = self.read();
        view.networks.iter().any(|network| known.zones.get(network).is_none_or(|zone| !zone.internal))
    }

    /// The answer to a question about a member of the container's networks; `None` for any other question.
    pub fn answer(&self, view: &View, query: &Message) -> Option<Message> {
        let question = query.queries().first()?;
        let name = question.name().to_ascii().trim_end_matches('.').to_ascii_lowercase();
        let mut answer = message::reply(query, ResponseCode::NoError);
        answer.set_authoritative(true);
        if let Some(address) = message::reverse_address(&name).filter(|_| question.query_type() == RecordType::PTR) {
            let target = self.reverse(view, address)?;
            // A container's name may be longer than DNS has room for: then it has none there.
            if let Ok(target) = Name::from_ascii(target) {
                answer.add_answer(Record::from_rdata(question.name().clone(), TTL, RData::PTR(PTR(target))));
            }
            return Some(answer);
        }
        let (addresses, ttl) = self.lookup(view, &name);
        if addresses.is_empty() {
            return None;
        }
        // A name that exists but has no address of the asked kind is an empty answer, not NXDOMAIN: resolvers ask for
        // AAAA beside A, and some would take NXDOMAIN for both.
        let data = addresses.iter().filter_map(|addresses| match question.query_type() {
            RecordType::A => addresses.ipv4.map(|address| RData::A(A(address))),
            RecordType::AAAA => addresses.ipv6.map(|address| RData::AAAA(AAAA(address))),
            _ => None,
        });
        for data in data {
            answer.add_answer(Record::from_rdata(question.name().clone(), ttl, data));
        }
        Some(answer)
    }
}

impl Zone {
    fn insert(&mut self, container: &str, names: &[String], addresses: Addresses) {
        for name in names {
            let entries = self.forward.entry(name.to_ascii_lowercase()).or_default();
            match entries.iter_mut().find(|(id, _)| id == container) {
                Some(entry) => entry.1 = addresses,
                None => entries.push((container.to_string(), addresses)),
            }
        }
        if let Some(first) = names.first() {
            self.reverse.extend(addresses.iter().map(|address| (address, first.clone())));
        }
    }

    fn remove(&mut self, container: &str) {
        let mut gone = Vec::new();
        self.forward.retain(|_, entries| {
            entries.retain(|(id, addresses)| {
                if id == container {
                    gone.extend(addresses.iter());
                }
                id != container
            });
            !entries.is_empty()
        });
        gone.iter().for_each(|address| drop(self.reverse.remove(address)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::Query;
    use std::net::{Ipv4Addr, Ipv6Addr};
    use std::str::FromStr;

    fn ask(names: &Names, name: &str, kind: RecordType) -> Option<Vec<String>> {
        let view = View { networks: vec!["n".into()], ..View::default() };
        let mut query = Message::new();
        query.add_query(Query::query(Name::from_str(name).expect("name"), kind));
        let answer = names.answer(&view, &query)?;
        Some(answer.answers().iter().map(|r| r.data().to_string()).collect())
    }

    #[test]
    fn members_have_addresses_and_names() {
        let names = Names::default();
        names.set_network("n", "p_Net.1", false);
        let ip = |d| Addresses { ipv4: Some(Ipv4Addr::new(10, 0, 0, d)), ipv6: None };
        names.insert("n", "c1", &["p-web-1".into(), "web".into()], ip(2));
        names.insert("n", "c2", &["p-web-2".into(), "web".into()], ip(3));
        names.insert("other", "c3", &["secret".into()], ip(4));
        let first = ask(&names, "web.", RecordType::A).expect("known");
        let second = ask(&names, "WEB.", RecordType::A).expect("known");
        assert_eq!(first.len(), 2);
        assert_ne!(first, second, "the order rotates");
        assert_eq!(ask(&names, "web.", RecordType::AAAA), Some(vec![]));
        assert_eq!(ask(&names, "2.0.0.10.in-addr.arpa.", RecordType::PTR), Some(vec!["p-web-1.p_net.1.".into()]));
        assert_eq!(ask(&names, "p-web-1.p_net.1.", RecordType::A), Some(vec!["10.0.0.2".into()]));
        for unknown in ["secret.", "secret.p_net.1.", "p-web-1.other.", "secret.other.", "p-web-1.p_net.", "p_net.1."] {
            assert_eq!(ask(&names, unknown, RecordType::A), None, "{unknown}");
        }
        names.remove("n", "c1");
        assert_eq!(ask(&names, "web.", RecordType::A), Some(vec!["10.0.0.3".into()]));
        names.remove("n", "c2");
        assert_eq!(ask(&names, "web.", RecordType::A), None);
    }

    #[test]
    fn who_is_not_fit_is_not_found_while_others_are() {
        let names = Names::default();
        let ip = |d| Addresses { ipv4: Some(Ipv4Addr::new(10, 0, 0, d)), ipv6: None };
        for (id, digit) in [("c1", 1), ("c2", 2)] {
            names.insert("n", id, &[id.into(), "web".into()], ip(digit));
        }
        let web = || {
            let mut found = ask(&names, "web.", RecordType::A).unwrap_or_default();
            found.sort();
            found
        };
        // Who is unfit, and who is found.
        for (unfit, found) in [
            (&["c1"][..], &["10.0.0.2"][..]),
            (&["c1", "c2"], &["10.0.0.1", "10.0.0.2"]),
            (&["c2"], &["10.0.0.1"]),
            (&[], &["10.0.0.1", "10.0.0.2"]),
        ] {
            ["c1", "c2"].iter().for_each(|id| names.set_fit(id, !unfit.contains(id)));
            assert_eq!(web(), found, "{unfit:?}");
        }
        names.set_fit("c1", false);
        assert_eq!(ask(&names, "c1.", RecordType::A), Some(vec!["10.0.0.1".into()]), "a name of its own");
        names.forget("c1");
        names.insert("n", "c1", &["web".into()], ip(1));
        assert_eq!(web().len(), 2, "it has been started anew");
    }

    #[test]
    fn another_takes_over_the_names_of_one() {
        let names = Names::default();
        let ip = |d| Addresses { ipv4: Some(Ipv4Addr::new(10, 0, 0, d)), ipv6: None };
        let view = View { networks: vec!["n".into()], ..View::default() };
        names.set_network("n", "net", false);
        names.insert("n", "old", &["p-web-1".into(), "web".into()], ip(1));
        names.insert("n", "new", &["tmp".into()], ip(2));
        assert_eq!(names.lookup(&view, "web").1, TTL);
        names.set_leaving("old", true);
        assert_eq!(names.lookup(&view, "web"), (vec![ip(1)], 0), "an answer is not to be kept");
        names.replace("old", "new", &[("n".into(), vec!["tmp".into(), "web".into()], ip(2))]);
        assert_eq!(names.lookup(&view, "web"), (vec![ip(2)], TTL));
        assert_eq!(ask(&names, "p-web-1.", RecordType::A), None);
        assert_eq!(ask(&names, "1.0.0.10.in-addr.arpa.", RecordType::PTR), None);
        assert_eq!(ask(&names, "2.0.0.10.in-addr.arpa.", RecordType::PTR), Some(vec!["tmp.net.".into()]));
    }

    #[test]
    fn both_families_are_answered() {
        let names = Names::default();
        names.set_network("n", "p_Net.1", false);
        let ipv6: Ipv6Addr = "fd00:1::2".parse().expect("address");
        names.insert("n", "c1", &["web".into()], Addresses { ipv4: Some(Ipv4Addr::new(10, 0, 0, 2)), ipv6: Some(ipv6) });
        names.insert("n", "c2", &["six".into()], Addresses { ipv4: None, ipv6: Some(ipv6) });
        assert_eq!(ask(&names, "web.", RecordType::AAAA), Some(vec!["fd00:1::2".into()]));
        assert_eq!(ask(&names, "six.", RecordType::A), Some(vec![]));
        let digits = "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.0.0.d.f.ip6.arpa.";
        assert_eq!(ask(&names, digits, RecordType::PTR), Some(vec!["six.p_net.1.".into()]));
        assert_eq!(ask(&names, "2.0.0.ip6.arpa.", RecordType::PTR), None);
    }
}
