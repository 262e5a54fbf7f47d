//! Networks of containers: address pools, bridges, namespaces, names, published ports, firewall.
//!
//! [`address`] chooses subnets and addresses; [`link`] makes bridges and veth pairs; [`sandbox`] is a container's namespace;
//! [`dns`] answers in it; [`ports`] holds the host's ports and [`firewall`] leads them in. [`netlink`] and [`nft`] are the
//! kernel's wire formats. [`conntrack`] has the kernel forget flows, [`descriptors`] bounds what strangers can have the engine
//! open, by a [`budget`].

pub mod address;
pub mod budget;
pub mod conntrack;
pub mod descriptors;
pub mod dns;
pub mod error;
pub mod firewall;
pub mod link;
pub mod netlink;
mod nft;
pub mod ports;
pub mod proxy;
pub mod sandbox;

pub use error::NetworkError;
