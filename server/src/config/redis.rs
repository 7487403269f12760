//! The URL of a Redis: one server, the master behind sentinels, or a cluster.
//!
//! Only its form: whether anything answers there is the client's business.

use super::Address;

/// Port of a server, and of a sentinel, when the URL names none.
const SERVER_PORT: u16 = 6_379;
const SENTINEL_PORT: u16 = 26_379;

/// What `cache.url` says when it is not `memory://`. It holds the password: no `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl {
    /// How the servers belong together.
    pub topology: Topology,
    /// Whether connections are encrypted.
    pub tls: bool,
    /// Name and port of each host, in order.
    pub hosts: Vec<(String, u16)>,
    /// Of Redis.
    pub login: Login,
    /// Of the sentinels, when they have one of their own.
    pub sentinel_login: Login,
}

/// How the servers belong together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Topology {
    /// One server and its database.
    Standalone {
        /// Number of the database.
        database: i64,
    },
    /// The hosts are sentinels.
    Sentinel {
        /// The master's name among them.
        master: String,
    },
    /// The hosts are some nodes of a cluster.
    Cluster,
}

/// A name and a password; `None` where the URL has none.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Login {
    /// The name.
    pub user: Option<String>,
    /// The password.
    pub password: Option<String>,
}

impl RedisUrl {
    /// The schemes, as the messages name them.
    pub const SCHEMES: [&str; 6] =
        ["redis", "rediss", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster"];

    /// Reads the URL; what is wrong with it, in words that hold no secret.
    ///
    /// # Errors
    /// Another scheme, no host, a port or a database that is no number, a sentinel URL without the master's name.
    pub fn parse(address: &Address) -> Result<RedisUrl, &'static str> {
        let scheme = address.scheme();
        if !RedisUrl::SCHEMES.contains(&scheme) {
            return Err("must start with memory://, redis://, rediss://, redis+sentinel:// or redis+cluster://");
        }
        let (front, kind) = scheme.split_once('+').unwrap_or((scheme, ""));
        let (rest, query) = address.rest().split_once('?').unwrap_or((address.rest(), ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        let login = Login { user: given(user)?, password: given(password)? };
        let port = if kind == "sentinel" { SENTINEL_PORT } else { SERVER_PORT };
        let hosts = hosts.split(',').map(|host| host_and_port(host, port)).collect::<Result<Vec<_>, _>>()?;
        let topology = match kind {
            "sentinel" if path.is_empty() => return Err("names no master: redis+sentinel://HOST:PORT,.../MASTER"),
            "sentinel" => Topology::Sentinel { master: path.to_owned() },
            "cluster" if !path.is_empty() => return Err("must end after its hosts: a cluster has no databases"),
            "cluster" => Topology::Cluster,
            _ if hosts.len() > 1 => return Err("names several hosts: use redis+sentinel:// or redis+cluster://"),
            _ => Topology::Standalone { database: database(path)? },
        };
        let mut sentinel_login = Login::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("sentinel_user", user)) => sentinel_login.user = given(user)?,
                Some(("sentinel_password", password)) => sentinel_login.password = given(password)?,
                _ => return Err("has an option that is none of sentinel_user and sentinel_password"),
            }
        }
        Ok(RedisUrl { topology, tls: front == "rediss", hosts, login, sentinel_login })
    }

    /// The hosts as messages name them.
    pub fn places(&self) -> String {
        self.hosts.iter().map(|(host, port)| format!("{host}:{port}")).collect::<Vec<_>>().join(", ")
    }
}

fn database(path: &str) -> Result<i64, &'static str> {
    match path {
        "" => Ok(0),
        number => match number.parse::<u32>() {
            Ok(number) => Ok(number.into()),
            Err(_) => Err("must end in the number of a database, or after its host"),
        },
    }
}

fn host_and_port(text: &str, port: u16) -> Result<(String, u16), &'static str> {
    // An IPv6 address stands in brackets; its colons are its own.
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((host, "")) => (host, Ok(port)),
            Some((host, tail)) => (host, tail.strip_prefix(':').unwrap_or("none").parse()),
            None => return Err("has a [ without its ]"),
        },
        None => match text.split_once(':') {
            Some((host, port)) => (host, port.parse()),
            None => (text, Ok(port)),
        },
    };
    match port {
        _ if host.is_empty() => Err("names no host"),
        Ok(port) => Ok((host.to_owned(), port)),
        Err(_) => Err("has a port that is none"),
    }
}

/// `None` for nothing; else with its percent signs read.
fn given(text: &str) -> Result<Option<String>, &'static str> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|byte| char::from(byte).to_digit(16));
        let (Some(high), Some(low)) = (digit(), digit()) else {
            return Err("has a % that is not followed by two hexadecimal digits (write % itself as %25)");
        };
        bytes.push((high * 16 + low) as u8);
    }
    let text = String::from_utf8(bytes).map_err(|_| "has a name or a password that is not UTF-8")?;
    Ok((!text.is_empty()).then_some(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<RedisUrl, &'static str> {
        RedisUrl::parse(&Address::from(url))
    }

    fn good(url: &str) -> RedisUrl {
        parse(url).unwrap_or_else(|rule| panic!("{url}: {rule}"))
    }

    #[test]
    fn every_topology_is_read() {
        let one = good("redis://127.0.0.1:7000/3");
        assert_eq!((one.topology, one.tls), (Topology::Standalone { database: 3 }, false));
        assert_eq!(good("redis://cache").hosts, [("cache".to_owned(), 6_379)]);
        assert_eq!(good("redis://[::1]:7").hosts, [("::1".to_owned(), 7)]);
        let sentinel = good("rediss+sentinel://u:p%40ss@a:1,b/mymaster?sentinel_password=q");
        assert_eq!(sentinel.topology, Topology::Sentinel { master: "mymaster".to_owned() });
        assert_eq!(sentinel.hosts, [("a".to_owned(), 1), ("b".to_owned(), 26_379)]);
        assert_eq!(sentinel.login.password.as_deref(), Some("p@ss"));
        assert_eq!(sentinel.sentinel_login.password.as_deref(), Some("q"));
        assert!(sentinel.tls);
        let cluster = good("redis+cluster://:x@a:1,b:2,c:3");
        assert_eq!((cluster.topology, cluster.login.user), (Topology::Cluster, None));
        assert_eq!(cluster.hosts.len(), 3);
    }

    #[test]
    fn what_is_wrong_is_said_without_the_secret() {
        for url in [
            "http://a",
            "redis://",
            "redis://:hush@",
            "redis://:hush@a:port",
            "redis://:hush@a/x",
            "redis://:hush%@a",
            "redis://:hush@a,b",
            "redis+sentinel://:hush@a:1",
            "redis+cluster://:hush@a/1",
            "redis://:hush@a?hush=1",
            "redis://[::1",
        ] {
            let Err(rule) = parse(url) else { panic!("{url} was taken") };
            assert!(!rule.contains("hush"), "{rule}");
        }
    }
}
