//! fsutil's protocol, by which a client sends a directory: its messages, and [`writer`], which makes the directory of them.
//!
//! Names are bytes, which a text of the protocol's own would not let through.

pub mod writer;

pub use bollard_buildkit_proto::fsutil::types::packet::PacketType;

/// Bits of Go's `os.FileMode`, which a [`Stat`] has.
pub(super) mod go_mode {
    pub const DIRECTORY: u32 = 1 << 31;
    pub const SYMLINK: u32 = 1 << 27;
    pub const DEVICE: u32 = 1 << 26;
    pub const FIFO: u32 = 1 << 25;
    pub const SOCKET: u32 = 1 << 24;
    pub const SETUID: u32 = 1 << 23;
    const SETGID: u32 = 1 << 22;
    pub const CHARACTER_DEVICE: u32 = 1 << 21;
    const STICKY: u32 = 1 << 20;
    pub const IRREGULAR: u32 = 1 << 19;
    pub const TYPE: u32 = DIRECTORY | SYMLINK | DEVICE | FIFO | SOCKET | CHARACTER_DEVICE | IRREGULAR;
    /// The bits beside the permissions, and Linux's.
    pub const SPECIAL: [(u32, u32); 3] = [(SETUID, 0o4000), (SETGID, 0o2000), (STICKY, 0o1000)];
}

/// An extended attribute, an entry of a map.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SentAttribute {
    #[prost(bytes = "vec", tag = "1")]
    pub name: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}

/// A file. What is not used of it is not kept: owners and devices.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Stat {
    #[prost(bytes = "vec", tag = "1")]
    pub path: Vec<u8>,
    #[prost(uint32, tag = "2")]
    pub mode: u32,
    #[prost(uint32, tag = "3")]
    pub uid: u32,
    #[prost(uint32, tag = "4")]
    pub gid: u32,
    #[prost(int64, tag = "5")]
    pub size: i64,
    #[prost(int64, tag = "6")]
    pub mod_time: i64,
    #[prost(bytes = "vec", tag = "7")]
    pub linkname: Vec<u8>,
    #[prost(message, repeated, tag = "10")]
    pub attributes: Vec<SentAttribute>,
}

/// What is sent, in both directions.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Packet {
    #[prost(enumeration = "PacketType", tag = "1")]
    pub r#type: i32,
    #[prost(message, optional, tag = "2")]
    pub stat: Option<Stat>,
    #[prost(uint32, tag = "3")]
    pub id: u32,
    #[prost(bytes = "vec", tag = "4")]
    pub data: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use bollard_buildkit_proto::fsutil::types as published;
    use prost::Message;

    #[test]
    fn messages_are_those_of_the_protocol() {
        let stat = published::Stat {
            path: "ä/b".into(),
            mode: 0o644,
            uid: 1,
            gid: 2,
            size: 3,
            mod_time: -4,
            linkname: "c".into(),
            devmajor: 5,
            devminor: 6,
            xattrs: [("user.x".to_string(), vec![0xff])].into(),
        };
        let packet = published::Packet { r#type: PacketType::PacketStat.into(), stat: Some(stat), id: 7, data: vec![8] };
        let read = Packet::decode(packet.encode_to_vec().as_slice()).expect("a packet");
        let attributes = vec![SentAttribute { name: b"user.x".to_vec(), value: vec![0xff] }];
        let stat =
            Stat { path: "ä/b".into(), mode: 0o644, uid: 1, gid: 2, size: 3, mod_time: -4, linkname: b"c".to_vec(), attributes };
        assert_eq!(read, Packet { r#type: 0, stat: Some(stat), id: 7, data: vec![8] });
        let odd = Packet { stat: Some(Stat { path: vec![b'x', 0xff], ..Stat::default() }), ..Packet::default() };
        assert_eq!(Packet::decode(odd.encode_to_vec().as_slice()), Ok(odd));
    }
}
