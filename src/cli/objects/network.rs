//! `wharf network` and `wharf volume`.

use crate::api::client::{Client, ClientError};
use crate::api::reply::escape;
use crate::api::types::{
    EndpointIpam, EndpointSettings, Ipam, IpamPool, NetworkConnect, NetworkCreate, NetworkCreated, NetworkDisconnect,
    NetworkInspect, NetworksPruned, StringMap, VolumeCreate, VolumeInspect, VolumeList, VolumesPruned,
};
use crate::cli::output::format::{self, Column, LABEL, Listing, RowFormat};
use crate::cli::{Failure, Global, Outcome, connect};
use indexmap::IndexMap;
use serde_json::{Value, json};
use std::io::Write;

#[derive(clap::Subcommand, Debug)]
#[command(defer = true)]
pub enum NetworkCommand {
    /// List networks.
    #[command(alias = "list")]
    Ls {
        #[command(flatten)]
        listing: Listing,
        /// Those that fulfil a condition: name= or label=; may be repeated.
        #[arg(short, long, value_name = "KEY=VALUE", value_parser = filter)]
        filter: Vec<(String, String)>,
    },
    /// Print what is known of networks, in JSON.
    Inspect {
        /// A template, such as '{{.Driver}}'; json is on one line.
        #[arg(short, long, value_name = "TEMPLATE")]
        format: Option<String>,
        /// Docker's, for swarms.
        #[arg(short, long, hide = true)]
        verbose: bool,
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Make a network.
    Create {
        /// bridge, macvlan or ipvlan.
        #[arg(short, long, default_value = "bridge")]
        driver: String,
        /// Subnet, such as 10.5.0.0/24 or fd00:5::/64; chosen where it is absent. One of each family.
        #[arg(long)]
        subnet: Vec<String>,
        /// The gateway's address; one of each family.
        #[arg(long)]
        gateway: Vec<String>,
        /// Part of the subnet out of which addresses are given; one of each family.
        #[arg(long)]
        ip_range: Vec<String>,
        /// Addresses of IPv4 (on unless it is `--ipv4=false`).
        #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true", action = clap::ArgAction::Set)]
        ipv4: bool,
        /// Addresses of IPv6, too.
        #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", action = clap::ArgAction::Set)]
        ipv6: bool,
        /// Address of another on the network, NAME=ADDRESS; may be repeated.
        #[arg(long, value_name = "NAME=ADDRESS")]
        aux_address: Vec<String>,
        /// No way out.
        #[arg(long)]
        internal: bool,
        /// Label, NAME=VALUE; may be repeated.
        #[arg(long, value_name = "NAME=VALUE")]
        label: Vec<String>,
        /// Option of the driver, NAME=VALUE; may be repeated.
        #[arg(short, long, value_name = "NAME=VALUE")]
        opt: Vec<String>,
        name: String,
    },
    /// Put a container on one more network.
    Connect {
        /// Further name of the container there; may be repeated.
        #[arg(long)]
        alias: Vec<String>,
        /// Its address there.
        #[arg(long)]
        ip: Option<String>,
        /// Its IPv6 address there.
        #[arg(long)]
        ip6: Option<String>,
        network: String,
        container: String,
    },
    /// Take a container off a network.
    Disconnect {
        #[arg(short, long, hide = true)]
        force: bool,
        network: String,
        container: String,
    },
    /// Remove networks.
    #[command(alias = "remove")]
    Rm {
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Remove networks that no container is on.
    Prune {
        /// Do not ask.
        #[arg(short, long)]
        force: bool,
        /// Those with a label alone, label=NAME[=VALUE]; may be repeated.
        #[arg(long, value_name = "KEY=VALUE", value_parser = label_filter)]
        filter: Vec<(String, String)>,
    },
}

#[derive(clap::Subcommand, Debug)]
#[command(defer = true)]
pub enum VolumeCommand {
    /// List volumes.
    #[command(alias = "list")]
    Ls {
        /// Names alone.
        #[arg(short, long)]
        quiet: bool,
        /// table, json, or a template such as '{{.ID}}'.
        #[arg(long, default_value = "table")]
        format: RowFormat,
        /// Those that fulfil a condition: name= or label=; may be repeated.
        #[arg(short, long, value_name = "KEY=VALUE", value_parser = filter)]
        filter: Vec<(String, String)>,
    },
    /// Print what is known of volumes, in JSON.
    Inspect {
        /// A template, such as '{{.Mountpoint}}'; json is on one line.
        #[arg(short, long, value_name = "TEMPLATE")]
        format: Option<String>,
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Make a volume.
    Create {
        /// local.
        #[arg(short, long, default_value = "local", value_parser = ["local"])]
        driver: String,
        /// Label, NAME=VALUE; may be repeated.
        #[arg(long, value_name = "NAME=VALUE")]
        label: Vec<String>,
        /// type=, o= or device=, as mount(8) has them; may be repeated.
        #[arg(short, long, value_name = "NAME=VALUE")]
        opt: Vec<String>,
        name: String,
    },
    /// Remove volumes with their data.
    #[command(alias = "remove")]
    Rm {
        #[arg(short, long, hide = true)]
        force: bool,
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Remove volumes that no container uses: anonymous ones, with --all the others, too.
    Prune {
        #[arg(short, long)]
        all: bool,
        /// Do not ask.
        #[arg(short, long)]
        force: bool,
        /// Those with a label alone, label=NAME[=VALUE]; may be repeated.
        #[arg(long, value_name = "KEY=VALUE", value_parser = label_filter)]
        filter: Vec<(String, String)>,
    },
}

/// `NAME=VALUE`s as a mapping.
pub fn pairs(list: &[String]) -> StringMap {
    list.iter().map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(k, v)| (k.to_string(), v.to_string())).collect()
}

/// Asks whether to go on.
pub async fn confirmed(question: &str, force: bool) -> Result<bool, Failure> {
    if force {
        return Ok(true);
    }
    answered_yes(&format!("{question}\nAre you sure you want to continue? [y/N] ")).await
}

/// Asks with a prompt; anything but `y` means no.
pub async fn answered_yes(prompt: &str) -> Result<bool, Failure> {
    Ok(answer_to(prompt).await?.eq_ignore_ascii_case("y"))
}

/// Asks with a prompt: a line of standard input, without the space around it.
///
/// # Errors
/// When it cannot be read, or the command is cancelled.
pub async fn answer_to(prompt: &str) -> Result<String, Failure> {
    eprint!("{prompt}");
    let _ = std::io::stderr().flush();
    let read = async {
        let line = tokio::task::spawn_blocking(|| {
            let mut answer = String::new();
            std::io::stdin().read_line(&mut answer).map(|_| answer)
        });
        let line = line.await.map_err(std::io::Error::from).and_then(|line| line);
        line.map_err(|e| Failure::Message(format!("reading the answer: {e}")))
    };
    Ok(crate::cli::signals::or_cancelled(read).await?.trim().to_string())
}

/// Prints the answers to several questions as one list.
///
/// # Errors
/// The first that has no answer.
pub async fn inspect(client: &Client, format: Option<&str>, paths: impl Iterator<Item = String>) -> Outcome {
    let mut all: Vec<Value> = Vec::new();
    for path in paths {
        all.push(client.get(&path).await?);
    }
    format::inspected(format, &all)
}

/// Deletes several things, goes on when one cannot be, and says which were.
///
/// # Errors
/// With exit code 1 when any could not be deleted.
pub async fn delete_each(client: &Client, names: &[String], path: impl Fn(&str) -> String) -> Outcome {
    for_each(names, async |name| client.delete(&path(name)).await).await
}

/// Does something to several things, goes on when it fails for one, and prints the names of the others.
///
/// # Errors
/// With exit code 1 when it has failed for any.
pub async fn for_each(names: &[String], act: impl AsyncFn(&str) -> Result<(), ClientError>) -> Outcome {
    let mut failed = false;
    for name in names {
        match act(name).await {
            Ok(()) => println!("{name}"),
            Err(error) => {
                eprintln!("error: {error}");
                failed = true;
            }
        }
    }
    if failed { Err(Failure::Code(1)) } else { Ok(()) }
}

pub async fn network(global: &Global, command: NetworkCommand) -> Outcome {
    let client = connect::engine(global).await?;
    let of = |name: &str| format!("/networks/{}", escape(name));
    match command {
        NetworkCommand::Ls { listing: Listing { quiet, no_trunc, format }, filter } => {
            let list: Vec<NetworkInspect> = client.get(&format!("/networks?filters={}", filters(&filter))).await?;
            let id = |n: &NetworkInspect| n.id.chars().take(if no_trunc { usize::MAX } else { 12 }).collect::<String>();
            if quiet {
                list.iter().for_each(|n| println!("{}", id(n)));
                return Ok(());
            }
            let row = |n: &NetworkInspect| {
                json!({
                    "ID": id(n), "Name": n.name, "Driver": n.driver, "Scope": n.scope,
                    "Subnet": n.ipam.config.first().map(|pool| pool.subnet.as_str()).unwrap_or_default(),
                    "Internal": n.internal.to_string(), "IPv6": n.enable_ipv6.to_string(), "CreatedAt": n.created,
                    "Labels": labels(&n.labels), LABEL: n.labels,
                })
            };
            const COLUMNS: [Column; 5] =
                [("ID", "NETWORK ID"), ("Name", "NAME"), ("Driver", "DRIVER"), ("Scope", "SCOPE"), ("Subnet", "SUBNET")];
            format.print(&COLUMNS, &list.iter().map(row).collect::<Vec<_>>())?;
        }
        NetworkCommand::Inspect { format, names, .. } => {
            inspect(&client, format.as_deref(), names.iter().map(|name| of(name))).await?
        }
        NetworkCommand::Create { driver, subnet, gateway, ip_range, ipv4, ipv6, aux_address, internal, label, opt, name } => {
            let config = |is_ipv6: bool| {
                let of_family = |list: &[String]| list.iter().find(|text| text.contains(':') == is_ipv6).cloned();
                let aux: Vec<String> = aux_address.iter().filter(|pair| pair.contains(':') == is_ipv6).cloned().collect();
                let (subnet, gateway) = (of_family(&subnet), of_family(&gateway));
                IpamPool {
                    subnet: subnet.unwrap_or_default(),
                    gateway: gateway.unwrap_or_default(),
                    ip_range: of_family(&ip_range).unwrap_or_default(),
                    auxiliary_addresses: pairs(&aux),
                }
            };
            let body = NetworkCreate {
                name,
                driver,
                internal,
                labels: pairs(&label),
                options: pairs(&opt),
                enable_ipv4: Some(ipv4),
                enable_ipv6: Some(ipv6),
                ipam: Some(Ipam { config: vec![config(false), config(true)], ..Ipam::default() }),
                ..NetworkCreate::default()
            };
            let made: NetworkCreated = client.post("/networks/create", &body).await?;
            println!("{}", made.id);
        }
        NetworkCommand::Connect { alias, ip, ip6, network, container } => {
            let addresses = EndpointIpam {
                ipv4_address: ip.unwrap_or_default(),
                ipv6_address: ip6.unwrap_or_default(),
                ..EndpointIpam::default()
            };
            let endpoint = EndpointSettings { aliases: alias, ipam_config: Some(addresses), ..EndpointSettings::default() };
            let body = NetworkConnect { container, endpoint_config: Some(endpoint) };
            client.post::<Value>(&format!("{}/connect", of(&network)), &body).await?;
        }
        NetworkCommand::Disconnect { network, container, .. } => {
            let body = NetworkDisconnect { container, force: false };
            client.post::<Value>(&format!("{}/disconnect", of(&network)), &body).await?;
        }
        NetworkCommand::Rm { names } => delete_each(&client, &names, of).await?,
        NetworkCommand::Prune { force, filter } => {
            if confirmed("This removes all networks that no container is on.", force).await? {
                let pruned: NetworksPruned = client.post(&format!("/networks/prune?filters={}", filters(&filter)), &()).await?;
                pruned.networks_deleted.into_iter().flatten().for_each(|name| println!("{name}"));
            }
        }
    }
    Ok(())
}

pub async fn volume(global: &Global, command: VolumeCommand) -> Outcome {
    let client = connect::engine(global).await?;
    let of = |name: &str| format!("/volumes/{}", escape(name));
    match command {
        VolumeCommand::Ls { quiet, format, filter } => show_volumes(&client, &filters(&filter), quiet, &format).await?,
        VolumeCommand::Inspect { format, names } => {
            inspect(&client, format.as_deref(), names.iter().map(|name| of(name))).await?
        }
        VolumeCommand::Create { driver, label, opt, name } => {
            let body = VolumeCreate { name, driver, labels: pairs(&label), driver_opts: pairs(&opt) };
            let made: VolumeInspect = client.post("/volumes/create", &body).await?;
            println!("{}", made.name);
        }
        VolumeCommand::Rm { names, .. } => delete_each(&client, &names, of).await?,
        VolumeCommand::Prune { all, force, mut filter } => {
            let which = if all { "all" } else { "all anonymous" };
            if confirmed(&format!("This removes {which} volumes that no container uses, with their data."), force).await? {
                filter.extend(all.then(|| ("all".to_string(), "true".to_string())));
                let pruned: VolumesPruned = client.post(&format!("/volumes/prune?filters={}", filters(&filter)), &()).await?;
                pruned.volumes_deleted.into_iter().flatten().for_each(|name| println!("{name}"));
                println!("Total reclaimed space: {}", crate::cli::output::bytes(pruned.space_reclaimed));
            }
        }
    }
    Ok(())
}

/// Prints volumes; the filters are a query's, escaped.
///
/// # Errors
/// A broken connection, or a field that there is not.
pub async fn show_volumes(client: &Client, filters: &str, quiet: bool, format: &RowFormat) -> Outcome {
    const COLUMNS: [Column; 2] = [("Driver", "DRIVER"), ("Name", "VOLUME NAME")];
    let VolumeList { volumes: list, .. } = client.get(&format!("/volumes?filters={filters}")).await?;
    if quiet {
        list.iter().for_each(|v| println!("{}", v.name));
        return Ok(());
    }
    let row = |v: &VolumeInspect| {
        json!({
            "Driver": v.driver, "Name": v.name, "Scope": "local", "Mountpoint": v.mountpoint, "Availability": "N/A", "Group": "N/A",
            "Links": "N/A", "Size": "N/A", "Status": "N/A", "Labels": labels(&v.labels), LABEL: v.labels,
        })
    };
    format.print(&COLUMNS, &list.iter().map(row).collect::<Vec<_>>())
}

/// Labels as tables show them: `a=b,c=d`.
fn labels(labels: &StringMap) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

/// A condition of `--filter`.
fn filter(text: &str) -> Result<(String, String), String> {
    condition(text, &["name", "label"])
}

/// A condition of the `--filter` of a prune.
pub fn label_filter(text: &str) -> Result<(String, String), String> {
    condition(text, &["label"])
}

/// A condition, `KEY=VALUE`, with one of these keys.
pub fn condition(text: &str, keys: &[&str]) -> Result<(String, String), String> {
    let known = text.split_once('=').filter(|(key, _)| keys.contains(key));
    let known = known.map(|(key, value)| (key.to_string(), value.to_string()));
    known.ok_or_else(|| format!("a filter is one of {}, with a value: `{}=...`", keys.join(", "), keys[keys.len() - 1]))
}

/// Conditions as a query's, escaped.
pub fn filters(conditions: &[(String, String)]) -> String {
    let mut named: IndexMap<&str, Vec<&str>> = IndexMap::new();
    for (key, value) in conditions {
        named.entry(key).or_default().push(value);
    }
    escape(&serde_json::to_string(&named).unwrap_or_default())
}
