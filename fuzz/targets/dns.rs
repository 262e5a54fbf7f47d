//! Any bytes as a question and as another resolver's answer: what is answered is a message that fits.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::net::Ipv4Addr;
use wharf::network::address::Addresses;
use wharf::network::dns::{Names, View, message};

fuzz_target!(|input: (&[u8], &[u8])| {
    let (raw, upstream) = input;
    let asked = message::question(raw);
    if let Some(at) = &asked {
        let _ = message::answers(upstream, &raw[at.clone()]);
    }
    let _ = (message::id(upstream), message::code(upstream), message::question(upstream));
    let Some(query) = message::parse(raw) else { return };
    let name = query.queries()[0].name().to_ascii().trim_end_matches('.').to_ascii_lowercase();
    let names = Names::default();
    names.set_network("n", "net", false);
    for n in 0..40 {
        let addresses = Addresses { ipv4: Some(Ipv4Addr::new(10, 0, 0, n)), ipv6: None };
        names.insert("n", &n.to_string(), &[name.clone()], addresses);
    }
    let view = View { networks: vec!["n".into()], ..View::default() };
    let _ = message::reverse_address(&name);
    if let Some(answer) = names.answer(&view, &query) {
        let size = message::udp_size(&query);
        let bytes = message::encode(answer, size).expect("an answer can be written");
        // A question that is larger than what it allows for its answer is repeated all the same.
        assert!(bytes.len() <= size.max(raw.len() * 16), "{} bytes of {size}", bytes.len());
        assert_eq!(message::id(&bytes), message::id(raw));
    }
});
