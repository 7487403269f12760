//! Where a server is: a URL whose password is never printed.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

/// A URL of a port. `Debug`, `Display` and `Serialize` leave its password out.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Address(String);

impl Address {
    /// The whole URL, password included: for the client alone.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What stands before `://`; empty when there is none.
    pub fn scheme(&self) -> &str {
        self.0.split_once("://").map_or("", |(scheme, _)| scheme)
    }

    /// What stands behind `://`; empty when there is none.
    pub fn rest(&self) -> &str {
        self.0.split_once("://").map_or("", |(_, rest)| rest)
    }

    /// The same with `...` for everything between the first `:` of what stands behind `://` and the last `@`, and for the
    /// value of any `password` or `secret` in the query. Rather too much than too little: a URL may be mistyped.
    pub fn redacted(&self) -> String {
        let start = self.0.find("://").map_or(0, |at| at + 3);
        let (scheme, rest) = self.0.split_at(start);
        let shown = match rest.rsplit_once('@') {
            Some((login, hosts)) => match login.split_once(':') {
                Some((user, _)) => format!("{user}:...@{hosts}"),
                None => rest.to_owned(),
            },
            None => rest.to_owned(),
        };
        let (path, query) = shown.split_once('?').map_or((&*shown, None), |(path, query)| (path, Some(query)));
        let secret = |key: &str| ["password", "secret"].iter().any(|word| key.to_ascii_lowercase().contains(word));
        let pair = |pair: &str| match pair.split_once('=') {
            Some((key, _)) if secret(key) => format!("{key}=..."),
            _ => pair.to_owned(),
        };
        let query = query.map(|query| format!("?{}", query.split('&').map(pair).collect::<Vec<_>>().join("&")));
        format!("{scheme}{path}{}", query.unwrap_or_default())
    }
}

impl From<String> for Address {
    fn from(url: String) -> Address {
        Address(url)
    }
}

impl From<&str> for Address {
    fn from(url: &str) -> Address {
        Address(url.to_owned())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.redacted())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({})", self.redacted())
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.redacted())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_printed() {
        for (url, shown) in [
            ("postgres://ann:p@ss:w@host:5432/db", "postgres://ann:...@host:5432/db"),
            ("redis://:hush@a:1,b:2/0?password=hush&x=1", "redis://:...@a:1,b:2/0?password=...&x=1"),
            ("kafka://a:1,b:2/topic?sasl.password=hush", "kafka://a:1,b:2/topic?sasl.password=..."),
            ("sqlite:///var/lib/marquee.db", "sqlite:///var/lib/marquee.db"),
            ("redis://:hu/sh?y@host:6379", "redis://:...@host:6379"),
            ("postgres//ann:hush@h/db", "postgres//ann:...@h/db"),
            ("memory://", "memory://"),
            ("nonsense", "nonsense"),
        ] {
            let address = Address::from(url);
            assert_eq!(address.to_string(), shown);
            assert_eq!(serde_json::to_value(&address).unwrap(), shown);
            assert!(!format!("{address:?}").contains("hush") && !format!("{address:?}").contains("hu/sh"));
            assert_eq!(address.expose(), url);
        }
    }
}
