//! Requests for slates into an [`Ask`].

use std::mem::take;
use std::sync::Arc;
use std::time::Instant;

use marquee_engine::types::{AttributeCondition, AttributeTest, Context, ExplainLevel, Filter};
use marquee_proto::v1;
use prost::Message;

use super::{count_in, ids_in, time_in, visitor_in};
use crate::answer::{Ask, Kind};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::events::{check, token};

/// What the metadata of a call adds to its message.
#[derive(Debug, Clone, Default)]
pub(in crate::rpc) struct Refine {
    /// From `x-marquee-variant`: wins over the message's field.
    pub(in crate::rpc) variant: Option<String>,
    /// When the caller stops waiting.
    pub(in crate::rpc) deadline: Option<Instant>,
    /// When the message was there; it is decoded from then on.
    pub(in crate::rpc) received: Option<Instant>,
}

/// A request for a slate.
pub(in crate::rpc) fn recommend(mut request: v1::RecommendRequest, refine: &Refine, config: &Config) -> Result<Ask> {
    if let Some(variant) = &refine.variant {
        request.variant.clone_from(variant);
    }
    let count = count("count", request.count, config.limits.count_default, config)?;
    let question = question(&mut request);
    Ok(Ask { count, ..ask(request, Kind::Recommend, question, refine, config)? })
}

/// A request to rank the caller's own candidates.
pub(in crate::rpc) fn rank(request: v1::RankItemsRequest, refine: &Refine, config: &Config) -> Result<Ask> {
    let limits = &config.limits;
    if request.item_ids.is_empty() {
        return Err(Error::invalid("item_ids", "must not be empty"));
    }
    ids_in("item_ids", &request.item_ids, ("rank_items_max", limits.rank_items_max), limits)?;
    let mut known = std::collections::HashSet::new();
    if let Some(at) = request.item_ids.iter().position(|id| !known.insert(id.as_str())) {
        return Err(Error::invalid(format!("item_ids[{at}]"), "must not be there twice"));
    }
    let mut query = request.query.unwrap_or_default();
    if let Some(variant) = &refine.variant {
        query.variant.clone_from(variant);
    }
    for (field, is_used) in [
        ("query.exclude_item_ids", !query.exclude_item_ids.is_empty()),
        ("query.page_token", !query.page_token.is_empty()),
    ] {
        if is_used {
            return Err(Error::invalid(field, "must be empty: the caller brings the candidates"));
        }
    }
    let items: Vec<Arc<str>> = request.item_ids.iter().map(|id| id.as_str().into()).collect();
    let count = count("count", query.count, items.len(), config).map_err(|error| error.within("query."))?;
    // The items that are left out are explained, whether asked or not: the caller wants to know where they went.
    query.explain_missing_item_ids.clear();
    let kind = Kind::Rank { items, include_seen: request.include_seen };
    let ask = ask(query, kind, Vec::new(), refine, config).map_err(|error| error.within("query."))?;
    Ok(Ask { count, ..ask })
}

/// A request for items like some items.
pub(in crate::rpc) fn similar(request: v1::SimilarItemsRequest, refine: &Refine, config: &Config) -> Result<Ask> {
    let limits = &config.limits;
    if request.item_ids.is_empty() {
        return Err(Error::invalid("item_ids", "must not be empty"));
    }
    ids_in("item_ids", &request.item_ids, ("similar_items_max", limits.similar_items_max), limits)?;
    let count = count("count", request.count, limits.count_default, config)?;
    let surface = if request.surface.is_empty() { "similar".to_owned() } else { request.surface };
    let items = request.item_ids.iter().map(|id| id.as_str().into()).collect();
    let query = v1::RecommendRequest {
        surface,
        user_id: request.user_id,
        anonymous_id: request.anonymous_id,
        session_id: request.session_id,
        filter: request.filter,
        exclude_item_ids: request.exclude_item_ids,
        explain: request.explain,
        ..Default::default()
    };
    let refine = Refine { variant: None, ..refine.clone() };
    Ok(Ask { count, ..ask(query, Kind::Similar { items }, Vec::new(), &refine, config)? })
}

fn ask(request: v1::RecommendRequest, kind: Kind, question: Vec<u8>, refine: &Refine, config: &Config) -> Result<Ask> {
    let limits = &config.limits;
    not_yet(&request)?;
    let user = visitor_in(&request.user_id, &request.anonymous_id, limits)?;
    bytes("surface", &request.surface, ("surface_max_bytes", limits.surface_max_bytes))?;
    bytes("session_id", &request.session_id, ("id_max_bytes", limits.id_max_bytes))?;
    bytes("variant", &request.variant, ("id_max_bytes", limits.id_max_bytes))?;
    ids_in("exclude_item_ids", &request.exclude_item_ids, ("exclude_max_items", limits.exclude_max_items), limits)?;
    let missing_most = ("explain_missing_max_items", limits.explain_missing_max_items);
    ids_in("explain_missing_item_ids", &request.explain_missing_item_ids, missing_most, limits)?;
    let token = &request.write_token;
    let fresh = (!token.is_empty()).then(|| token::decode(token)).transpose()?;
    if request.require_fresh && fresh.is_none() {
        return Err(Error::invalid("require_fresh", "needs a write_token"));
    }
    Ok(Ask {
        kind,
        user,
        session: request.session_id,
        surface: if request.surface.is_empty() { "default".into() } else { request.surface.into() },
        count: 0,
        context: context(request.context.unwrap_or_default(), config).map_err(|error| error.within("context."))?,
        filter: filter(request.filter.unwrap_or_default(), config).map_err(|error| error.within("filter."))?,
        exclude: request.exclude_item_ids.into_iter().map(Into::into).collect(),
        variant: (!request.variant.is_empty()).then_some(request.variant),
        explain: explain(request.explain, config)?,
        explain_missing: request.explain_missing_item_ids.into_iter().map(Into::into).collect(),
        fresh,
        require_fresh: request.require_fresh,
        page_token: request.page_token,
        bypass_cache: request.bypass_cache,
        question,
        deadline: refine.deadline,
        received: refine.received,
        decoded: Instant::now(),
    })
}

/// What is asked, encoded, without what may change from page to page.
fn question(request: &mut v1::RecommendRequest) -> Vec<u8> {
    // Taken out and put back, so that nothing is copied but what counts.
    let rest = v1::RecommendRequest {
        count: take(&mut request.count),
        session_id: take(&mut request.session_id),
        write_token: take(&mut request.write_token),
        require_fresh: take(&mut request.require_fresh),
        page_token: take(&mut request.page_token),
        bypass_cache: take(&mut request.bypass_cache),
        explain_missing_item_ids: take(&mut request.explain_missing_item_ids),
        ..Default::default()
    };
    let asked = request.encode_to_vec();
    request.count = rest.count;
    request.session_id = rest.session_id;
    request.write_token = rest.write_token;
    request.require_fresh = rest.require_fresh;
    request.page_token = rest.page_token;
    request.bypass_cache = rest.bypass_cache;
    request.explain_missing_item_ids = rest.explain_missing_item_ids;
    asked
}

fn not_yet(request: &v1::RecommendRequest) -> Result<()> {
    if !request.promotions.is_empty() {
        return Err(Error::invalid("promotions", "not yet: must be empty"));
    }
    if request.diversity != 0.0 {
        return Err(Error::invalid("diversity", "not yet: must be 0"));
    }
    Ok(())
}

fn count(field: &str, count: i32, default: usize, config: &Config) -> Result<usize> {
    let most = config.limits.count_max;
    match usize::try_from(count) {
        Ok(0) => Ok(default),
        Ok(count) if count <= most => Ok(count),
        _ => Err(Error::invalid(field, format!("must lie within 0 and limits.count_max ({most}), is {count}"))),
    }
}

fn bytes(field: &str, value: &str, (name, most): (&str, usize)) -> Result<()> {
    if value.len() > most {
        let rule = format!("must have at most limits.{name} ({most}) bytes, has {}", value.len());
        return Err(Error::invalid(field, rule));
    }
    Ok(())
}

fn explain(level: i32, config: &Config) -> Result<ExplainLevel> {
    match v1::ExplainLevel::try_from(level) {
        Ok(v1::ExplainLevel::Unspecified) => Ok(ExplainLevel::None),
        Ok(v1::ExplainLevel::Reasons) => Ok(ExplainLevel::Reasons),
        Ok(v1::ExplainLevel::Full) if config.server.allow_explain => Ok(ExplainLevel::Full),
        Ok(v1::ExplainLevel::Full) => {
            Err(Error::PermissionDenied("full explanations are switched off here (server.allow_explain)".to_owned()))
        }
        Err(_) => Err(Error::invalid("explain", "must be a known ExplainLevel")),
    }
}

fn context(context: v1::Context, config: &Config) -> Result<Context> {
    let within = |field: &str, value: Option<i32>, most: u8| match value.map(u8::try_from) {
        None => Ok(None),
        Some(Ok(value)) if value <= most => Ok(Some(value)),
        Some(_) => Err(Error::invalid(field, format!("must lie within 0 and {most}"))),
    };
    let most = ("id_max_bytes", config.limits.id_max_bytes);
    bytes("device", &context.device, most)?;
    let is_code = context.country.len() == 2 && context.country.bytes().all(|byte| byte.is_ascii_alphabetic());
    if !context.country.is_empty() && !is_code {
        return Err(Error::invalid("country", "must be empty or two letters (ISO 3166-1 alpha-2)"));
    }
    count_in("extra", context.extra.len(), ("filter_max_conditions", config.limits.filter_max_conditions))?;
    for (name, value) in &context.extra {
        bytes("extra", name, most)?;
        bytes("extra", value, most)?;
    }
    Ok(Context {
        hour: within("hour", context.hour, 23)?,
        weekday: within("weekday", context.weekday, 6)?,
        device: context.device,
        country: context.country.to_ascii_uppercase(),
    })
}

fn filter(filter: v1::Filter, config: &Config) -> Result<Filter> {
    let limits = &config.limits;
    let conditions = filter.genres_any.len() + filter.genres_none.len() + filter.attributes.len();
    count_in(
        "genres_any, genres_none and attributes together",
        conditions,
        ("filter_max_conditions", limits.filter_max_conditions),
    )?;
    for (field, genres) in [("genres_any", &filter.genres_any), ("genres_none", &filter.genres_none)] {
        for genre in genres {
            bytes(field, genre, ("list_entry_max_bytes", limits.list_entry_max_bytes))?;
        }
    }
    let year = |field: &str, year: i32| match u16::try_from(year) {
        Ok(0) => Ok(None),
        Ok(year) if year <= 9_999 => Ok(Some(year)),
        _ => Err(Error::invalid(field, "must be 0 or a year of 1 to 9999")),
    };
    let attribute = |(at, condition)| {
        attribute(condition, config).map_err(|error: Error| error.within(&format!("attributes[{at}].")))
    };
    Ok(Filter {
        year_min: year("year_min", filter.year_min)?,
        year_max: year("year_max", filter.year_max)?,
        genres_any: filter.genres_any,
        genres_none: filter.genres_none,
        attributes: filter.attributes.into_iter().enumerate().map(attribute).collect::<Result<_>>()?,
        available_at_ms: filter.available_at.map(|time| time_in("available_at", &time)).transpose()?,
    })
}

fn attribute(condition: v1::AttributeCondition, config: &Config) -> Result<AttributeCondition> {
    use v1::attribute_condition::Test;
    let limits = &config.limits;
    check::id("name", &condition.name, limits)?;
    let values = |field: &str, list: v1::StringList| {
        if list.values.is_empty() {
            return Err(Error::invalid(field, "must not be empty"));
        }
        count_in(field, list.values.len(), ("filter_max_conditions", limits.filter_max_conditions))?;
        for value in &list.values {
            bytes(field, value, ("list_entry_max_bytes", limits.list_entry_max_bytes))?;
        }
        Ok(list.values)
    };
    let test = match condition.test {
        None => return Err(Error::invalid("test", "must be any_of, none_of or range")),
        Some(Test::AnyOf(list)) => AttributeTest::AnyOf(values("any_of", list)?),
        Some(Test::NoneOf(list)) => AttributeTest::NoneOf(values("none_of", list)?),
        Some(Test::Range(range)) => {
            let (min, max) = (range.min.unwrap_or(f64::NEG_INFINITY), range.max.unwrap_or(f64::INFINITY));
            if range.min.is_some_and(|min| !min.is_finite()) || range.max.is_some_and(|max| !max.is_finite()) {
                return Err(Error::invalid("range", "bounds must be finite; leave one out for no bound"));
            }
            if range.min.is_none() && range.max.is_none() {
                return Err(Error::invalid("range", "needs min or max"));
            }
            AttributeTest::Range(min, max)
        }
    };
    Ok(AttributeCondition { name: condition.name, test })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: impl FnOnce(&mut v1::RecommendRequest)) -> Result<Ask> {
        let mut request = v1::RecommendRequest { user_id: "u".to_owned(), ..Default::default() };
        change(&mut request);
        recommend(request, &Refine::default(), &Config::default())
    }

    #[track_caller]
    fn refused(change: impl FnOnce(&mut v1::RecommendRequest), field: &str) {
        let error = check(change).expect_err(field);
        assert!(matches!(&error, Error::InvalidArgument { field: found, .. } if found == field), "{field}: {error}");
    }

    fn filter(change: impl FnOnce(&mut v1::Filter)) -> impl FnOnce(&mut v1::RecommendRequest) {
        move |request| change(request.filter.insert(v1::Filter::default()))
    }

    fn range(min: f64) -> v1::AttributeCondition {
        let test = v1::attribute_condition::Test::Range(v1::NumberRange { min: Some(min), max: None });
        v1::AttributeCondition { name: "a".to_owned(), test: Some(test) }
    }

    #[test]
    fn a_count_of_zero_is_the_default() {
        let ask = check(|_| ()).unwrap();
        assert_eq!((ask.count, &*ask.surface), (20, "default"));
    }

    #[test]
    fn bad_fields_are_named() {
        refused(|request| request.count = 100_000, "count");
        refused(|request| request.count = -1, "count");
        refused(|request| request.user_id = "x".repeat(10_240), "user_id");
        refused(|request| request.anonymous_id = "b".to_owned(), "anonymous_id");
        refused(|request| request.surface = "x".repeat(65), "surface");
        refused(|request| request.session_id = "x".repeat(10_240), "session_id");
        refused(|request| request.diversity = 0.5, "diversity");
        refused(|request| request.diversity = f64::NAN, "diversity");
        refused(|request| request.promotions.push(v1::Promotion::default()), "promotions");
        refused(|request| request.exclude_item_ids = vec!["a".to_owned(); 1_001], "exclude_item_ids");
        refused(|request| request.exclude_item_ids = vec![String::new()], "exclude_item_ids[0]");
        refused(|request| request.explain_missing_item_ids = vec!["a".to_owned(); 101], "explain_missing_item_ids");
        refused(|request| request.explain = 99, "explain");
        refused(|request| request.write_token = "garbage".to_owned(), "write_token");
        refused(|request| request.require_fresh = true, "require_fresh");
        refused(|request| request.context = Some(v1::Context { hour: Some(24), ..Default::default() }), "context.hour");
        refused(
            |request| request.context = Some(v1::Context { weekday: Some(7), ..Default::default() }),
            "context.weekday",
        );
        let country = v1::Context { country: "Atlantis".to_owned(), ..Default::default() };
        refused(|request| request.context = Some(country), "context.country");
        refused(filter(|filter| filter.year_min = 10_000), "filter.year_min");
        refused(filter(|filter| filter.year_max = -5), "filter.year_max");
        refused(filter(|filter| filter.attributes = vec![range(f64::NAN)]), "filter.attributes[0].range");
        refused(
            filter(|filter| filter.attributes = vec![v1::AttributeCondition::default()]),
            "filter.attributes[0].name",
        );
        let late = prost_types::Timestamp { seconds: i64::MAX, nanos: 0 };
        refused(filter(|filter| filter.available_at = Some(late)), "filter.available_at");
    }

    #[test]
    fn the_metadata_wins_over_the_field() {
        let refine = Refine { variant: Some("blend".to_owned()), ..Refine::default() };
        let request = v1::RecommendRequest { variant: "popular".to_owned(), ..Default::default() };
        assert_eq!(recommend(request, &refine, &Config::default()).unwrap().variant.as_deref(), Some("blend"));
    }

    #[test]
    fn only_what_is_asked_makes_the_question() {
        let plain = check(|_| ()).unwrap().question;
        assert_eq!(plain, check(|request| request.count = 7).unwrap().question);
        assert_eq!(plain, check(|request| request.session_id = "s".to_owned()).unwrap().question);
        assert_ne!(plain, check(|request| request.user_id = "v".to_owned()).unwrap().question);
        assert_ne!(plain, check(filter(|filter| filter.year_min = 1_990)).unwrap().question);
    }

    #[test]
    fn ranking_needs_each_candidate_once() {
        let ask = |ids: &[&str]| {
            let item_ids = ids.iter().map(|&id| id.to_owned()).collect();
            rank(v1::RankItemsRequest { item_ids, ..Default::default() }, &Refine::default(), &Config::default())
        };
        assert!(ask(&[]).unwrap_err().to_string().starts_with("item_ids: "));
        assert!(ask(&["a", "a"]).unwrap_err().to_string().starts_with("item_ids[1]: "));
        assert_eq!(ask(&["a", "b"]).unwrap().count, 2);
    }
}
