//! Networks beyond the plain bridge: options, both families, other drivers, other protocols.

use crate::support::{Ran, Stack, eventually, inside, question, sleeping};

#[test]
fn networks_have_dockers_options() {
    let stack = Stack::new("nothing");
    let unique: String = stack.project.chars().skip(1).take(8).collect();
    let second = u32::from_str_radix(&format!("{:x}", unique.bytes().map(u32::from).sum::<u32>()), 16).expect("number") % 200;
    let yaml = format!(
        "services:
  one:
    {}
    mac_address: 02:42:ac:11:99:01
    networks:
      front: {{link_local_ips: [169.254.7.7], interface_name: wan0}}
      back: {{gw_priority: 5, mac_address: '02:42:ac:11:99:02'}}
  two: {{{}}}
networks:
  front:
    driver_opts: {{com.docker.network.driver.mtu: 1400, com.docker.network.bridge.enable_icc: 'false'}}
    ipam: {{config: [{{subnet: 10.213.{second}.0/24, ip_range: 10.213.{second}.128/25, aux_addresses: {{router: 10.213.{second}.129}}}}]}}
  back: {{}}
",
        sleeping("").replace(", ", "\n    ").replace("'", ""),
        sleeping("networks: [front, back]"),
    );
    stack.write("compose.yaml", &yaml);
    stack.wharf(&["up", "-d"]).ok();
    let link = stack.sh("one", "ip addr");
    assert!(link.contains("02:42:ac:11:99:02") && link.contains("169.254.7.7/16"), "{link}");
    assert!(link.contains("wan0") && link.contains("mtu 1400"), "{link}");
    let front = |service: &str| stack.sh(service, "ip -4 -o addr | grep -o '10\\.213\\.[0-9.]*' | head -1");
    let (one, two) = (front("one"), front("two"));
    for address in [&one, &two] {
        let last: u32 = address.rsplit('.').next().expect("byte").parse().expect("number");
        assert!(last >= 128 && last != 129, "{address} is out of the range, or the router's");
    }
    let gateway = stack.sh("one", "ip route | awk '/default/ {print $3}'");
    assert!(!gateway.starts_with("10.213."), "the default route is on the network with the higher gw_priority: {gateway}");
    assert_ne!(stack.wharf(&["exec", "-T", "one", "ping", "-c1", "-W1", &two]).code, 0, "no icc");
    let back = stack.sh("two", "ip -4 -o addr | grep -v '10\\.213' | grep -o 'inet [0-9.]*' | grep -v 127.0 | cut -d' ' -f2");
    stack.wharf(&["exec", "-T", "one", "ping", "-c1", "-W2", &back]).ok();
}

#[test]
fn macvlan_and_ipvlan_are_on_the_hosts_interface() {
    let stack = Stack::new("nothing");
    // One end of a pair stands in for the host's interface: nothing of the real network is touched.
    let parent: String = format!("w{}", &stack.project[1..]).chars().take(14).collect();
    let other = format!("{parent}o");
    let ip = |args: &[&str]| std::process::Command::new("ip").args(args).status().expect("ip").success();
    assert!(ip(&["link", "add", &parent, "type", "veth", "peer", "name", &other]));
    assert!(ip(&["link", "set", &parent, "up"]) && ip(&["link", "set", &other, "up"]));
    let yaml = format!(
        "services: {{a: {{{}}}, b: {{{}}}, c: {{{}}}}}
networks:
  lan: {{driver: macvlan, driver_opts: {{parent: {parent}}}, ipam: {{config: [{{subnet: 10.214.0.0/24}}]}}}}
",
        sleeping("networks: [lan]"),
        sleeping("networks: [lan]"),
        sleeping("network_mode: none"),
    );
    stack.write("compose.yaml", &yaml);
    for driver in ["macvlan", "ipvlan"] {
        stack.write("compose.yaml", &yaml.replace("driver: macvlan", &format!("driver: {driver}")));
        // Not every kernel has both: then that is said.
        let up = stack.wharf(&["up", "-d"]);
        if up.code == 0 {
            let address = stack.sh("b", "ip -4 -o addr show eth0 | grep -o '10\\.214\\.[0-9.]*' | head -1");
            stack.wharf(&["exec", "-T", "a", "ping", "-c1", "-W2", &address]).ok();
            stack.wharf(&["exec", "-T", "a", "ping", "-c1", "-W2", "b"]).ok();
        } else {
            up.fails(1, &["this kernel has no such interfaces"]);
        }
        stack.wharf(&["down"]).ok();
    }
    assert!(ip(&["link", "delete", &parent]));
    stack.wharf(&["up", "-d"]).fails(1, &["the host does not have", &parent]);
    stack.write("compose.yaml", "services: {}");
}

/// A /64 of the test's own.
fn subnet_of(stack: &Stack) -> String {
    let sum = stack.project.bytes().fold(0u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    format!("fd77:{:x}:{:x}", sum >> 16, sum & 0xffff)
}

#[test]
fn networks_have_both_families() {
    let stack = Stack::new("nothing");
    let prefix = subnet_of(&stack);
    let web = "mkdir /www; echo six > /www/index.html; exec httpd -f -p '[::]:80' -h /www";
    let yaml = format!(
        "services:
  web:
    image: busybox:local
    stop_signal: SIGKILL
    command: [sh, -c, \"{web}\"]
    ports: ['80', '9/udp']
    networks: {{both: {{ipv6_address: '{prefix}::50'}}}}
  app: {{{both}}}
  six: {{{six}, ports: ['80']}}
  closed: {{{closed}}}
networks:
  both: {{enable_ipv6: true, ipam: {{config: [{{subnet: '{prefix}::/64', aux_addresses: {{other: '{prefix}::2'}}}}]}}}}
  six: {{enable_ipv6: true, enable_ipv4: false}}
  closed: {{enable_ipv6: true, internal: true}}
",
        both = sleeping("networks: [both]"),
        six = sleeping("networks: [six]"),
        closed = sleeping("networks: [closed]"),
    );
    stack.write("compose.yaml", &yaml);
    stack.wharf(&["up", "-d"]).ok();
    // Names have both addresses, and both are the interface's. What is reserved is not given out.
    let own = stack.sh("app", "ip -6 -o addr show eth0 scope global | awk '{print $4}'");
    assert_eq!(own, format!("{prefix}::3/64"));
    let answer = stack.sh("app", "nslookup -type=aaaa web; nslookup -type=a web");
    assert!(
        answer.contains(&format!("{prefix}::50"))
            && answer.lines().any(|line| line.starts_with("Address: 1") && !line.contains(":53")),
        "{answer}"
    );
    let reverse = stack.sh("app", &format!("nslookup {prefix}::50"));
    assert!(reverse.contains(&format!("{}-web-1", stack.project)), "{reverse}");
    assert!(stack.sh("app", "cat /etc/hosts").contains(&format!("{prefix}::3\t")));
    let get = |service: &str, url: &str| stack.wharf(&["exec", "-T", service, "timeout", "3", "wget", "-qO-", url]).stdout;
    eventually("web answers by IPv6", 20, || get("app", &format!("http://[{prefix}::50]/")) == "six\n");
    // Published ports: translated by the kernel for who comes by an address of the host, led on by the engine from ::1.
    let port = stack.wharf(&["port", "web", "80"]).ok().trim().rsplit(':').next().expect("port").to_string();
    let curl = |host: &str| {
        let url = format!("http://{host}:{port}/");
        let out = std::process::Command::new("curl").args(["-sg", "--max-time", "5", &url]).output().expect("curl");
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    for host in ["127.0.0.1", "[::1]", &format!("[{prefix}::1]")] {
        assert_eq!(curl(host), "six\n", "{host}");
    }
    // A network of IPv6 alone has no IPv4, one without a subnet gets one of its own, and both lead out with the host's address.
    let only = stack.sh("six", "ip -4 -o addr show eth0; ip -6 -o addr show eth0 scope global; ip -6 route");
    assert!(!only.contains("inet ") && only.contains("inet6 fd") && only.contains("default via fd"), "{only}");
    let closed = stack.sh("closed", "ip -6 -o addr show eth0 scope global; ip -6 route");
    assert!(closed.contains("inet6 fd") && !closed.contains("default"), "{closed}");
    // A port that the kernel chose stays with the container.
    let chosen = stack.wharf(&["port", "six", "80"]).ok();
    assert!(chosen.starts_with("[::]:") || chosen.starts_with(":::"), "{chosen}");
    stack.wharf(&["restart", "six"]).ok();
    assert_eq!(stack.wharf(&["port", "six", "80"]).ok(), chosen);
    // Walls: nobody comes from another network, by IPv6 as little as by IPv4.
    assert_eq!(get("six", &format!("http://[{prefix}::50]/")), "");
    assert_eq!(get("closed", &format!("http://[{prefix}::50]/")), "");
    // What is published is reached from there by the host's address, as from anywhere.
    assert_eq!(get("six", &format!("http://[{prefix}::1]:{port}/")), "six\n");
    // The addresses stay over a restart and a new engine.
    stack.wharf(&["engine", "stop"]).ok();
    stack.wharf(&["restart", "web"]).ok();
    eventually("web answers again", 20, || get("app", &format!("http://[{prefix}::50]/")) == "six\n");
    eventually("and from outside", 20, || curl("[::1]") == "six\n");
}

#[test]
fn an_interface_of_an_earlier_engine_may_be_there_still() {
    let stack = Stack::new("nothing");
    stack.write("compose.yaml", &format!("services: {{web: {{{}}}}}", sleeping("")));
    stack.wharf(&["up", "-d"]).ok();
    // Whoever holds the namespace keeps the kernel from removing the pair.
    let name = format!("{}-web-1", stack.project);
    let pid = stack.pid(&name);
    let namespace = std::fs::File::open(format!("/proc/{pid}/ns/net")).expect("namespace");
    stack.wharf(&["engine", "stop"]).ok();
    stack.wharf(&["restart", "web"]).ok();
    assert_ne!(stack.pid(&name), pid);
    drop(namespace);
}

#[test]
fn an_address_that_a_network_cannot_have_is_refused() {
    let stack = Stack::new("nothing");
    let with = |options: &str, network: &str| {
        let service = sleeping(&format!("networks: {{n: {{{options}}}}}"));
        stack.write("compose.yaml", &format!("services: {{app: {{{service}}}}}\nnetworks: {{n: {{{network}}}}}"));
        let out = stack.wharf(&["up", "-d"]);
        stack.wharf(&["down"]).ok();
        out
    };
    with("ipv6_address: 'fd00::5'", "").fails(1, &["fd00::5", "no IPv6", "enable_ipv6: true"]);
    with("", "enable_ipv4: false").fails(1, &["neither IPv4 nor IPv6"]);
    with("", "driver_opts: {com.docker.network.bridge.host_binding_ipv4: '::1'}").fails(1, &["no address of IPv4"]);
    with("", "driver_opts: {com.docker.network.bridge.gateway_mode_ipv6: routed}").fails(1, &["gateway_mode_ipv6", "`nat`"]);
    with("", "enable_ipv6: true, ipam: {config: [{subnet: 'fd00:1::/64'}, {subnet: 'fd00:2::/64'}]}")
        .fails(1, &["two subnets of IPv6"]);
    with("", "ipam: {config: [{subnet: 127.0.0.0/8}]}").fails(1, &["127.0.0.0/8", "loopback"]);
    with("", "ipam: {config: [{subnet: 0.0.0.0/0}]}").fails(1, &["0.0.0.0/0"]);
    with("", "ipam: {config: [{subnet: 10.231.0.5/24}]}")
        .fails(1, &["invalid subnet 10.231.0.5/24", "it should be 10.231.0.0/24"]);
    with("", "driver_opts: {com.docker.network.driver.mtu: x}").fails(1, &["com.docker.network.driver.mtu", "`x`"]);
    with("", "driver_opts: {com.docker.network.bridge.enable_icc: x}").fails(1, &["bridge.enable_icc", "`x`"]);
    for (address, kind) in [("10.231.0.255", "broadcast"), ("10.231.0.0", "network")] {
        with(&format!("ipv4_address: {address}"), "ipam: {config: [{subnet: 10.231.0.0/24}]}").fails(1, &[address, kind]);
    }
    with("driver_opts: {com.docker.network.endpoint.sysctls: 'net.ipv4.conf.all.forwarding=1'}", "").fails(1, &["IFNAME"]);
}

#[test]
fn ports_and_interfaces_have_options() {
    let stack = Stack::new("nothing");
    let web = "mkdir /www; echo bound > /www/index.html; exec httpd -f -p 80 -h /www";
    stack.write(
        "compose.yaml",
        &format!(
            "services:
  web:
    image: busybox:local
    stop_signal: SIGKILL
    command: [sh, -c, '{web}']
    ports: ['80', '7/sctp']
    networks:
      n: {{driver_opts: {{com.docker.network.endpoint.sysctls: 'net.ipv4.conf.IFNAME.log_martians=1,net.ipv4.conf.IFNAME.arp_notify=1', com.docker.network.endpoint.ifname: lan0}}}}
networks: {{n: {{driver_opts: {{com.docker.network.bridge.host_binding_ipv4: 127.0.0.3}}}}}}
"
        ),
    );
    // Without SCTP in this kernel somebody has to choose the port.
    if !stack.wharf(&["up", "-d"]).stderr.contains("Started") {
        let text = std::fs::read_to_string(stack.path("compose.yaml")).expect("file").replace("'7/sctp'", "'31007:7/sctp'");
        stack.write("compose.yaml", &text);
        stack.wharf(&["up", "-d"]).ok();
    }
    assert_eq!(stack.sh("web", "cd /proc/sys/net/ipv4/conf/lan0; cat log_martians arp_notify"), "1\n1");
    let bound = stack.wharf(&["port", "web", "80"]).ok();
    let (host, port) = bound.trim().rsplit_once(':').expect("port");
    assert_eq!(host, "127.0.0.3");
    let get = |host: &str| {
        let url = format!("http://{host}:{port}/");
        let out = std::process::Command::new("curl").args(["-s", "--max-time", "5", &url]).output().expect("curl");
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    eventually("it answers where it is bound", 20, || get("127.0.0.3") == "bound\n");
    assert_eq!(get("127.0.0.1"), "");
    // A packet of SCTP to the host's port arrives at the container's.
    let sctp = stack.wharf(&["port", "--protocol", "sctp", "web", "7"]).ok();
    let host_port: u16 = sctp.trim().rsplit(':').next().expect("port").parse().expect("number");
    let name = format!("{}-web-1", stack.project);
    let pid = stack.pid(&name).to_string();
    let heard = std::thread::spawn(move || {
        // tcpdump's part, without it: a raw socket in the container's namespace.
        let namespace = std::fs::File::open(format!("/proc/{pid}/ns/net")).expect("namespace");
        nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).expect("setns");
        let socket = sctp_socket();
        socket.set_read_timeout(Some(std::time::Duration::from_secs(10))).expect("timeout");
        let mut buffer = [0; 256];
        let n = std::io::Read::read(&mut &socket, &mut buffer).expect("a packet");
        u16::from_be_bytes(buffer[n - 30..n - 28].try_into().expect("port"))
    });
    let sender = sctp_socket();
    let target = std::net::SocketAddrV4::new(std::net::Ipv4Addr::new(127, 0, 0, 3), 0);
    let mut packet = vec![0x30, 0x39];
    packet.extend(host_port.to_be_bytes());
    // No tag, no checksum (the host makes its own packets), and an INIT chunk of 20 bytes.
    packet.extend([0; 8]);
    packet.extend([1, 0, 0, 20, 0, 0, 0, 1, 0, 0, 16, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
    eventually("it is heard in the container", 10, || {
        sender.send_to(&packet, &target.into()).expect("send");
        heard.is_finished()
    });
    assert_eq!(heard.join().expect("thread"), 7);
}

fn sctp_socket() -> socket2::Socket {
    socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::RAW, Some(socket2::Protocol::from(132))).expect("raw socket")
}

/// A network namespace that stands for a host, and one that stands for who is outside.
struct Host {
    name: String,
    outside: String,
}

impl Host {
    fn new(unique: &str) -> Self {
        let host = Host { name: format!("h{unique}"), outside: format!("o{unique}") };
        let (name, outside) = (&host.name, &host.outside);
        for args in [
            format!("netns add {name}"),
            format!("netns add {outside}"),
            format!("-n {name} link set lo up"),
            format!("link add wan netns {name} type veth peer name wan netns {outside}"),
            format!("-n {name} addr add 10.222.0.1/24 dev wan"),
            format!("-n {name} link set wan up"),
            format!("-n {outside} addr add 10.222.0.2/24 dev wan"),
            format!("-n {outside} link set wan up"),
            format!("-n {name} route add default via 10.222.0.2"),
        ] {
            assert!(std::process::Command::new("ip").args(args.split(' ')).status().expect("ip").success(), "ip {args}");
        }
        host
    }

    fn run(&self, namespace: &str, program: &str, args: &[&str]) -> std::process::Output {
        let mut command = std::process::Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{namespace}")).arg(program).args(args).output().expect("nsenter")
    }

    /// A command of a stack whose engine lives in the host's namespace.
    fn wharf(&self, stack: &Stack, args: &[&str]) -> String {
        self.ran(stack, args).ok()
    }

    fn ran(&self, stack: &Stack, args: &[&str]) -> Ran {
        let command = stack.command(args);
        let mut inside = std::process::Command::new("nsenter");
        inside.arg(format!("--net=/run/netns/{}", self.name)).arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            inside.env(key, value.unwrap_or_default());
        }
        let ran = inside.current_dir(stack.path(".")).stdin(std::process::Stdio::null()).output().expect("nsenter");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ran { code: ran.status.code().unwrap_or(-1), stdout: text(&ran.stdout), stderr: text(&ran.stderr) }
    }

    /// Does something outside.
    fn outside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let namespace = std::fs::File::open(format!("/run/netns/{}", self.outside)).expect("namespace");
        let thread = std::thread::spawn(move || {
            nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).expect("setns");
            work()
        });
        thread.join().expect("thread")
    }

    fn rules(&self, text: &str) {
        let out = self.run(&self.name, "nft", &[text]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for name in [&self.name, &self.outside] {
            let _ = std::process::Command::new("ip").args(["netns", "delete", name]).status();
        }
    }
}

/// What ufw and firewalld leave in the kernel, and what they do when they are reloaded (both were tried themselves, by hand).
#[test]
fn a_hosts_own_firewall_lets_stacks_through() {
    let ufw = "add table ip filter; flush table ip filter;
        add chain ip filter INPUT { type filter hook input priority 0; policy drop; };
        add rule ip filter INPUT ct state established,related accept;
        add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }";
    let firewalld = "add table inet firewalld; flush table inet firewalld;
        add chain inet firewalld filter_FORWARD { type filter hook forward priority 10; policy accept; };
        add rule inet firewalld filter_FORWARD ct state established,related accept;
        add rule inet firewalld filter_FORWARD ct status dnat accept;
        add rule inet firewalld filter_FORWARD reject with icmpx admin-prohibited";
    for (rules, chain) in [(ufw, "ip filter FORWARD"), (firewalld, "inet firewalld filter_FORWARD")] {
        let stack = Stack::new("nothing");
        // The engine of this stack is to live in the other namespace.
        stack.wharf(&["engine", "stop"]).ok();
        let host = Host::new(&stack.project.chars().skip(1).take(8).collect::<String>());
        host.rules(rules);
        let web = "mkdir /www; echo served > /www/index.html; exec httpd -f -p 80 -h /www";
        stack.write(
            "compose.yaml",
            &format!(
                "services:\n  web: {{image: 'busybox:local', command: [sh, -c, '{web}'], ports: ['8088:80'], stop_signal: SIGKILL}}\n  app: {{{}}}\n",
                sleeping("")
            ),
        );
        host.wharf(&stack, &["up", "-d"]);
        let reaches = |what: &str| {
            eventually(what, 10, || stack.wharf(&["exec", "-T", "app", "ping", "-c1", "-W1", "10.222.0.2"]).code == 0);
            eventually(what, 10, || {
                stack.wharf(&["exec", "-T", "app", "timeout", "2", "wget", "-qO-", "http://web/"]).stdout == "served\n"
            });
            let outer = host.run(&host.outside, "curl", &["-s", "--max-time", "3", "http://10.222.0.1:8088/"]);
            assert_eq!(String::from_utf8_lossy(&outer.stdout), "served\n", "{what}");
        };
        reaches("with the host's rules");
        // The rules are written anew, and wharf's part in them is lost.
        host.rules(rules);
        reaches("after a reload");
        // Nothing is left there when the network has gone.
        let listed = || {
            let out = host.run(&host.name, "nft", &["list chain", chain]);
            String::from_utf8_lossy(&out.stdout).into_owned()
        };
        assert!(listed().contains("wharf"), "{}", listed());
        stack.wharf(&["down"]).ok();
        assert!(!listed().contains("wharf"), "{}", listed());
        stack.wharf(&["engine", "stop"]).ok();
    }
}

fn unique(stack: &Stack) -> String {
    stack.project.chars().skip(1).take(8).collect()
}

/// moby 45610: a neighbour sends to 127.0.0.1, or to a container's own address, by way of this host.
#[test]
fn a_neighbour_reaches_nothing_but_what_is_published_for_him() {
    let stack = Stack::new("nothing");
    stack.wharf(&["engine", "stop"]).ok();
    let host = Host::new(&unique(&stack));
    let web = "mkdir /www; echo secret > /www/index.html; httpd -p 81 -h /www; exec httpd -f -p 80 -h /www";
    stack.write(
        "compose.yaml",
        &format!(
            "services:\n  web: {{image: 'busybox:local', command: [sh, -c, '{web}'], ports: ['127.0.0.1:8089:80', '8088:80'], stop_signal: SIGKILL}}\n  other: {{image: 'busybox:local', command: [sh, -c, '{web}'], ports: ['10.222.0.1:8087:80'], stop_signal: SIGKILL}}\n"
        ),
    );
    host.wharf(&stack, &["up", "-d"]);
    let address = |service: &str| stack.sh(service, "hostname -i");
    let (web, other) = (address("web"), address("other"));
    // It takes the host for its router, to the host's loopback, too, and believes what comes from there.
    for args in [
        "route add 127.0.0.1/32 via 10.222.0.1".to_string(),
        format!("route add {web}/32 via 10.222.0.1"),
        format!("route add {other}/32 via 10.222.0.1"),
    ] {
        let args: Vec<&str> = args.split(' ').collect();
        assert!(host.run(&host.outside, "ip", &args).status.success(), "{args:?}");
    }
    let settings = "for f in all wan; do echo 1 > /proc/sys/net/ipv4/conf/$f/route_localnet; echo 0 > /proc/sys/net/ipv4/conf/$f/rp_filter; done";
    assert!(host.run(&host.outside, "sh", &["-c", settings]).status.success());
    let get = |from: &str, to: &str, seconds: &str| {
        let out = host.run(from, "curl", &["-s", "--max-time", seconds, &format!("http://{to}/")]);
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    eventually("what is published is reached", 20, || get(&host.outside, "10.222.0.1:8088", "2") == "secret\n");
    eventually("and by the other", 20, || get(&host.outside, "10.222.0.1:8087", "2") == "secret\n");
    assert_eq!(get(&host.name, "127.0.0.1:8089", "2"), "secret\n", "the host itself reaches what is published on 127.0.0.1");
    assert_eq!(get(&host.name, &format!("{web}:81"), "2"), "secret\n", "and its containers");
    for to in [
        "127.0.0.1:8089",
        "127.0.0.1:8088",
        "10.222.0.1:8089",
        &format!("{web}:80"),
        &format!("{web}:81"),
        &format!("{other}:80"),
    ] {
        assert_eq!(get(&host.outside, to, "1"), "", "a neighbour reaches {to}");
    }
    // What the host's own rules lead to a container comes there.
    let rules = format!(
        "add table ip own; add chain ip own pre {{ type nat hook prerouting priority -90; }}; add rule ip own pre tcp dport 8181 dnat to {web}:81"
    );
    assert!(host.run(&host.name, "nft", &[&rules]).status.success());
    assert_eq!(get(&host.outside, "10.222.0.1:8181", "5"), "secret\n");
    // Where a port led is closed to them only until the kernel has forgotten the flows to there.
    host.wharf(&stack, &["rm", "-sf", "other"]);
    let is_closed = || {
        let sets = String::from_utf8_lossy(&host.run(&host.name, "nft", &["list", "sets"]).stdout).into_owned();
        let mut of_that_name = sets.split("set withdrawn").skip(1).peekable();
        assert!(of_that_name.peek().is_some(), "{sets}");
        of_that_name.any(|set| set.split('}').next().is_some_and(|set| set.contains("elements")))
    };
    eventually("nothing is closed any more", 5, || !is_closed());
    host.wharf(&stack, &["down"]);
    stack.wharf(&["engine", "stop"]).ok();
}

/// A client of UDP that goes on sending from one port, while what is published changes.
#[test]
fn flows_of_udp_follow_what_is_published() {
    let stack = Stack::new("nothing");
    stack.compile("udp_echo");
    stack.wharf(&["engine", "stop"]).ok();
    let host = Host::new(&unique(&stack));
    let echo = |name: &str, more: &str| {
        format!(
            "  {name}: {{image: 'busybox:local', command: [/echo, '7000', {name}], volumes: ['./udp_echo:/echo:ro'], stop_signal: SIGKILL{more}}}\n"
        )
    };
    let socket = host.outside(|| {
        let socket = std::net::UdpSocket::bind("10.222.0.2:40000").expect("bind");
        socket.set_read_timeout(Some(std::time::Duration::from_millis(100))).expect("timeout");
        socket
    });
    // Each packet keeps the flow alive that the kernel knows.
    let ask = || {
        let _ = socket.send_to(b"x", "10.222.0.1:7007");
        let mut buffer = [0; 64];
        socket.recv(&mut buffer).ok().map(|length| String::from_utf8_lossy(&buffer[..length]).into_owned())
    };
    // Nobody is there: the flow is the host's own.
    assert_eq!(ask(), None);
    let published = ", ports: ['7007:7000/udp']";
    stack.write("compose.yaml", &format!("services:\n{}", echo("one", published)));
    host.wharf(&stack, &["up", "-d"]);
    eventually("a flow that is older than the port comes to the container", 5, || ask().is_some_and(|said| said.contains("one")));
    // Another service has the port, another address, and the first one's address has who publishes nothing.
    let first = stack.sh("one", "hostname -i");
    stack.write("compose.yaml", "services: {}");
    host.wharf(&stack, &["down", "--remove-orphans"]);
    assert_eq!(ask(), None);
    stack.write("compose.yaml", &format!("services:\n{}", echo("closed", "")));
    host.wharf(&stack, &["up", "-d"]);
    assert_eq!(stack.sh("closed", "hostname -i"), first, "the address is in use again");
    for _ in 0..5 {
        assert_eq!(ask(), None, "the flow leads to a port that is not published");
    }
    stack.write("compose.yaml", &format!("services:\n{}{}", echo("closed", ""), echo("two", published)));
    host.wharf(&stack, &["up", "-d"]);
    eventually("the flow comes to who has the port now", 5, || ask().is_some_and(|said| said.contains("two")));
    // Recreated beside its own former address.
    stack.write(
        "compose.yaml",
        &format!("services:\n{}{}", echo("closed", ""), echo("two", &format!("{published}, environment: [A=b]"))),
    );
    host.wharf(&stack, &["up", "-d"]);
    eventually("the flow comes to the new container", 5, || ask().is_some_and(|said| said.contains("two")));
    host.wharf(&stack, &["down"]);
    stack.wharf(&["engine", "stop"]).ok();
}

const RESOLVER: &str = "127.0.0.11:53";

/// What the resolver of a container says by UDP.
fn ask_udp(question: &[u8]) -> Vec<u8> {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("bind");
    socket.set_read_timeout(Some(std::time::Duration::from_secs(10))).expect("timeout");
    socket.send_to(question, RESOLVER).expect("ask");
    let mut buffer = vec![0; 65_536];
    let length = socket.recv(&mut buffer).expect("answer");
    buffer.truncate(length);
    buffer
}

#[test]
fn a_name_of_many_addresses_is_cut_and_comes_whole_by_tcp() {
    const REPLICAS: u16 = 40;
    let stack = Stack::new("nothing");
    stack.write("compose.yaml", &format!("services: {{app: {{{}}}, many: {{{}}}}}", sleeping(""), sleeping("scale: 40")));
    stack.wharf(&["up", "-d"]).ok();
    let (cut, large, whole) = inside(&stack, "app", || {
        use std::io::{Read, Write};
        let cut = ask_udp(&question(1, "many"));
        // An EDNS record that says 4096.
        let mut edns = question(2, "many");
        edns[11] = 1;
        edns.extend([0, 0, 41, 16, 0, 0, 0, 0, 0, 0, 0]);
        let large = ask_udp(&edns);
        let mut stream = std::net::TcpStream::connect(RESOLVER).expect("connect");
        let question = question(3, "many");
        stream.write_all(&[&(question.len() as u16).to_be_bytes()[..], &question].concat()).expect("ask");
        let mut length = [0; 2];
        stream.read_exact(&mut length).expect("length");
        let mut whole = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut whole).expect("answer");
        (cut, large, whole)
    });
    let truncated = |answer: &[u8]| answer[2] & 2 != 0;
    let answers = |answer: &[u8]| u16::from_be_bytes([answer[6], answer[7]]);
    assert!(cut.len() <= 512 && truncated(&cut) && (20..REPLICAS).contains(&answers(&cut)), "{} bytes", cut.len());
    for answer in [&large, &whole] {
        assert!(!truncated(answer) && answers(answer) == REPLICAS, "{} answers", answers(answer));
    }
    // busybox says how many there are, and what the network's own name for each is.
    let first = format!("{}-many-1", stack.project);
    let network = format!("{}_default", stack.project);
    let address = stack.sh("many", "hostname -i");
    assert!(stack.sh("app", &format!("nslookup -type=a {first}.{network}")).contains(&address));
    assert!(stack.sh("app", &format!("nslookup {address}")).contains(&format!("{first}.{network}")));
}

/// Servers of a container's own are on its network, which need not lead anywhere; one that fails is followed by the next.
#[test]
fn a_containers_own_resolvers_are_asked_from_its_network() {
    let stack = Stack::new("nothing");
    let unique = stack.project.bytes().fold(0u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into())) % 250;
    let at = |n: u8| format!("10.216.{unique}.{n}");
    let server = |n: u8| sleeping(&format!("networks: {{inner: {{ipv4_address: {}}}}}", at(n)));
    stack.write(
        "compose.yaml",
        &format!(
            "services:\n  failing: {{{}}}\n  good: {{{}}}\n  app: {{{}}}\n  own: {{{}}}\nnetworks: {{inner: {{internal: true, ipam: {{config: [{{subnet: {}/24}}]}}}}}}\n",
            server(8),
            server(9),
            sleeping(&format!("networks: [inner], dns: [{}, {}]", at(8), at(9))),
            sleeping("networks: [inner], dns: 127.0.0.1"),
            at(0)
        ),
    );
    stack.wharf(&["up", "-d"]).ok();
    let serve = |service: &str, code: u8, records: Vec<u8>| {
        let socket = inside(&stack, service, || std::net::UdpSocket::bind("0.0.0.0:53").expect("bind"));
        let asked = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
        let counted = asked.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let mut answer = buffer[..length].to_vec();
                answer[2..4].copy_from_slice(&[0x81, 0x80 | code]);
                answer[7] = u8::from(!records.is_empty());
                answer.extend(&records);
                // What is no answer to this question is no answer: another id, another name.
                let mut other_id = answer.clone();
                other_id[0] ^= 1;
                let mut other_name = answer.clone();
                other_name[13] ^= 1;
                for answer in [&other_id, &other_name, &answer] {
                    let _ = socket.send_to(answer, from);
                }
            }
        });
        asked
    };
    let record = |last: u8| vec![0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 192, 0, 2, last];
    let failing = serve("failing", 2, Vec::new());
    serve("good", 0, record(7));
    serve("own", 0, record(8));
    for (service, last) in [("app", 7), ("own", 8)] {
        let answer = inside(&stack, service, || ask_udp(&question(77, "Name.example.org")));
        let mut expected = question(77, "Name.example.org");
        expected[2..8].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1]);
        expected.extend(record(last));
        assert_eq!(answer, expected, "{service}");
    }
    assert_eq!(failing.load(std::sync::atomic::Ordering::Relaxed), 1, "the first server is asked first");
}

/// GitLab and Nextcloud do: a container comes to its own published port by an address of the host.
#[test]
fn a_container_reaches_its_own_published_port() {
    let stack = Stack::new("nothing");
    stack.wharf(&["engine", "stop"]).ok();
    let host = Host::new(&unique(&stack));
    let web = "mkdir /www; echo mine > /www/index.html; exec httpd -f -p 80 -h /www";
    stack.write(
        "compose.yaml",
        &format!(
            "services:\n  web: {{image: 'busybox:local', command: [sh, -c, '{web}'], ports: ['8086:80', '10.222.0.1:8085:80'], stop_signal: SIGKILL}}\n"
        ),
    );
    host.wharf(&stack, &["up", "-d"]);
    let gateway = stack.sh("web", "ip route | awk '/default/ {print $3}'");
    for to in ["10.222.0.1:8086", "10.222.0.1:8085", &format!("{gateway}:8086")] {
        eventually(to, 10, || {
            stack.wharf(&["exec", "-T", "web", "timeout", "2", "wget", "-qO-", &format!("http://{to}/")]).stdout == "mine\n"
        });
    }
    host.wharf(&stack, &["down"]);
    stack.wharf(&["engine", "stop"]).ok();
}

/// With its manifest a network would be found again: one that cannot be removed whole stays whole, and says so.
#[test]
fn a_network_that_cannot_be_removed_stays() {
    let stack = Stack::bare("none");
    stack.wharf(&["network", "create", "n"]).ok();
    let known: serde_json::Value = serde_json::from_str(&stack.wharf(&["network", "inspect", "n"]).ok()).expect("JSON");
    let id = known[0]["Id"].as_str().expect("an id");
    let manifest = stack.data_root().join("networks").join(format!("{}.json", id));
    let bridge = std::path::Path::new("/sys/class/net").join(format!("br-{}", &id[..12]));
    assert!(bridge.exists());
    std::fs::remove_file(&manifest).expect("the manifest");
    std::fs::create_dir(&manifest).expect("what is no file");
    for _ in 0..2 {
        stack.wharf(&["network", "rm", "n"]).fails(1, &["manifest"]);
        assert!(bridge.exists(), "it has its bridge again");
        assert!(stack.wharf(&["network", "ls", "-q", "--no-trunc"]).ok().contains(id));
    }
    std::fs::remove_dir(&manifest).expect("the directory");
    stack.wharf(&["network", "rm", "n"]).ok();
    assert!(!bridge.exists());
    stack.wharf(&["network", "rm", "n"]).fails(1, &["n"]);
}

/// Whatever name a network's bridge is given: the host's own interfaces and bridges are as they were before.
#[test]
fn the_hosts_interfaces_are_left_as_they_were() {
    let stack = Stack::new("nothing");
    stack.wharf(&["engine", "stop"]).ok();
    let host = Host::new(&stack.project.chars().skip(1).take(8).collect::<String>());
    let ip = |args: &str| {
        let out = host.run(&host.name, "ip", &args.split(' ').collect::<Vec<_>>());
        assert!(out.status.success(), "ip {args}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    for args in [
        "link add full type bridge",
        "addr add 10.55.0.1/24 dev full",
        "addr add fd55::1/64 dev full nodad",
        "link set full up",
        "link add bare type bridge",
    ] {
        ip(args);
    }
    // A host that forwards: else its other interfaces' `accept_ra` is changed, which documentation tells of.
    assert!(host.run(&host.name, "sh", &["-c", "echo 1 > /proc/sys/net/ipv6/conf/all/forwarding"]).status.success());
    // Addresses, and the settings that a network needs otherwise; a bridge without ports has no carrier.
    let seen = || {
        let settings = "cat /proc/sys/net/ipv4/conf/*/route_localnet /proc/sys/net/ipv6/conf/*/disable_ipv6";
        let settings = host.run(&host.name, "sh", &["-c", &format!("{settings} /proc/sys/net/ipv6/conf/*/accept_ra")]).stdout;
        let links =
            ip("-br link show type bridge").lines().map(|line| line.split(' ').next().map(str::to_string)).collect::<Vec<_>>();
        let flags = |name: &str| ip(&format!("link show {name}")).contains(",UP");
        let addresses = ip("-o -4 addr") + &ip("-o -6 addr show dev full scope global");
        (addresses, links, flags("full"), flags("bare"), String::from_utf8_lossy(&settings).into_owned())
    };
    let up = |bridge: &str, rest: &str| {
        let service = sleeping("networks: [n], ports: ['127.0.0.1:18080:80']");
        let option = format!("driver_opts: {{com.docker.network.bridge.name: '{bridge}'}}");
        stack.write("compose.yaml", &format!("services: {{a: {{{service}}}}}\nnetworks: {{n: {{{option}{rest}}}}}\n"));
        host.ran(&stack, &["up", "-d"])
    };
    let before = seen();
    let subnet = |subnet: &str| format!(", ipam: {{config: [{{subnet: {subnet}}}]}}");
    for (bridge, rest, words) in [
        ("lo", String::new(), ["existing interface lo is not a bridge", "bridge.name"]),
        ("wan", String::new(), ["existing interface wan is not a bridge", "bridge.name"]),
        ("wan", subnet("10.55.1.0/24"), ["existing interface wan is not a bridge", "bridge.name"]),
        ("full", subnet("10.56.0.0/24"), ["which has 10.55.0.1/24", "full"]),
        ("full", ", ipam: {config: [{subnet: 10.55.0.0/24, gateway: 10.55.0.9}]}".into(), ["which has 10.55.0.1/24", "full"]),
    ] {
        up(bridge, &rest).fails(1, &words);
        assert_eq!(seen(), before, "{bridge}{rest}");
        stack.wharf(&["down"]).ok();
        assert_eq!(seen(), before, "{bridge}{rest}");
    }
    for (bridge, rest, address) in [
        ("full", String::new(), "10.55.0.2/24"),
        ("full", subnet("10.55.0.0/24"), "10.55.0.2/24"),
        ("full", ", enable_ipv6: true".into(), "fd55::2/64"),
        ("bare", subnet("10.57.0.0/24"), "10.57.0.2/24"),
    ] {
        up(bridge, &rest).ok();
        assert!(stack.sh("a", "ip addr show eth0").contains(address), "{bridge}{rest}: {address}");
        assert_eq!(seen().0.contains("10.57.0.1/24"), bridge == "bare");
        // An engine that knows the bridge from before gives it back all the same.
        stack.wharf(&["engine", "stop"]).ok();
        host.wharf(&stack, &["ps"]);
        host.wharf(&stack, &["down"]);
        assert_eq!(seen(), before, "{bridge}{rest}");
    }
    // Two networks have not one bridge.
    up("full", "").ok();
    host.ran(&stack, &["network", "create", "-o", "com.docker.network.bridge.name=full", "second"])
        .fails(1, &["same bridge name"]);
    host.wharf(&stack, &["down"]);
    assert_eq!(seen(), before);
    host.wharf(&stack, &["engine", "stop"]);
}

/// The names of Docker's own networks are a service's by `external` alone.
#[test]
fn a_network_of_another_is_not_taken_for_the_projects() {
    let stack = Stack::new("nothing");
    let up = |network: &str| {
        stack.write(
            "compose.yaml",
            &format!("services: {{a: {{{}}}}}\nnetworks: {{n: {{{network}}}}}\n", sleeping("networks: [n]")),
        );
        stack.wharf(&["up", "-d"])
    };
    stack.wharf(&["network", "create", "others"]).ok();
    for name in ["host", "none", "bridge", "others"] {
        let label = "incorrect label com.docker.compose.network set to \"\" (expected: \"n\")";
        up(&format!("name: {name}")).fails(1, &[&format!("network {name} was found but has {label}"), "external: true"]);
        assert_eq!(stack.container_directories(), 0, "{name}");
    }
    up("name: others, external: true").ok();
    up("name: host, external: true").ok();
    assert_eq!(
        stack.sh("a", "readlink /proc/self/ns/net"),
        std::fs::read_link("/proc/self/ns/net").expect("link").to_string_lossy()
    );
    stack.wharf(&["down"]).ok();
    stack.wharf(&["network", "rm", "others"]).ok();
}

/// Links of an endpoint are names, and the network with the highest priority leads out, whenever a container joins or leaves it.
#[test]
fn endpoints_have_links_and_priorities() {
    let stack = Stack::new("nothing");
    let post = |path: &str, body: serde_json::Value| {
        let (status, answer) = stack.api("POST", path, Some(&body));
        assert!(status < 300, "{path}: {status} {answer}");
    };
    for name in ["one", "two", "shut"] {
        post("/networks/create", serde_json::json!({"Name": name, "Internal": name == "shut"}));
    }
    let endpoint = serde_json::json!({"Links": ["other:friend", "other"], "GwPriority": 5, "Aliases": ["me"], "DriverOpts": {"some": "thing"}});
    for (name, endpoints) in [("other", serde_json::json!({"one": {}})), ("box", serde_json::json!({"one": endpoint}))] {
        post(
            &format!("/containers/create?name={name}"),
            serde_json::json!({"Image": "busybox:local", "Cmd": ["sleep", "1000"], "HostConfig": {"NetworkMode": "one"},
                "NetworkingConfig": {"EndpointsConfig": endpoints}}),
        );
        post(&format!("/containers/{name}/start"), serde_json::json!({}));
    }
    let run = |command: &[&str]| stack.wharf(&[&["container", "exec", "box"], command].concat());
    let friend = run(&["nslookup", "friend"]);
    assert!(friend.code == 0 && friend.stdout.contains("Name:"), "{friend:?}");
    let inspect = |network: &str| {
        let (_, known) = stack.api("GET", "/containers/box/json", None);
        known["NetworkSettings"]["Networks"][network].clone()
    };
    let shown = inspect("one");
    assert_eq!(
        (&shown["Links"], &shown["GwPriority"], &shown["Aliases"], &shown["DriverOpts"]["some"]),
        (&serde_json::json!(["other:friend", "other"]), &5.into(), &serde_json::json!(["me"]), &"thing".into())
    );
    let leads_out = |network: &str| {
        let route = run(&["ip", "route"]).ok();
        let gateway = inspect(network)["Gateway"].as_str().unwrap_or("none").to_string();
        assert_eq!(route.matches("default").count(), 1, "{route}");
        assert!(route.contains(&format!("default via {gateway} ")), "{network} {gateway}: {route}");
    };
    leads_out("one");
    let join = |network: &str, priority: i64| {
        let body = serde_json::json!({"Container": "box", "EndpointConfig": {"GwPriority": priority}});
        post(&format!("/networks/{network}/connect"), body);
    };
    let leave = |network: &str| post(&format!("/networks/{network}/disconnect"), serde_json::json!({"Container": "box"}));
    join("shut", 100);
    join("two", 1);
    leads_out("one");
    leave("two");
    join("two", 9);
    leads_out("two");
    assert_eq!(inspect("two")["GwPriority"], 9);
    leave("two");
    leads_out("one");
    // Twice, and where there are no networks.
    let body = serde_json::json!({"Container": "box"});
    let (status, answer) = stack.api("POST", "/networks/one/connect", Some(&body));
    assert_eq!((status, answer["message"].as_str()), (403, Some("endpoint with name box already exists in network one")));
    post("/containers/create?name=bare", serde_json::json!({"Image": "busybox:local", "HostConfig": {"NetworkMode": "none"}}));
    let (status, answer) = stack.api("POST", "/networks/one/connect", Some(&serde_json::json!({"Container": "bare"})));
    assert_eq!((status, answer["message"].as_str().is_some_and(|m| m.contains("private (none) mode"))), (400, true), "{answer}");
    stack.wharf(&["container", "rm", "-f", "box", "other", "bare"]).ok();
    for name in ["one", "two", "shut"] {
        assert_eq!(stack.api("DELETE", &format!("/networks/{name}"), None).0, 204);
    }
}
