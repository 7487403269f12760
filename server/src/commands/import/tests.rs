//! Each layout into a real store, and again.

use std::path::Path;
use std::sync::Arc;

use marquee_engine::types::Item;

use super::*;
use crate::commands::import::report::{Report, Tally};
use crate::store::{self, Store, UserKey};
use crate::telemetry::Metrics;

struct Ground {
    folder: tempfile::TempDir,
    store: Arc<dyn Store>,
    config: Config,
}

impl Ground {
    async fn new() -> Ground {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.store.url = format!("sqlite://{}/store.db", folder.path().display()).into();
        let store = store::open(&config, Arc::new(Metrics::new())).await.unwrap();
        Ground { folder, store, config }
    }

    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }

    async fn import(&self, read: impl FnOnce(&mut Sink) -> Result<()>) -> Report {
        let quarantine = Quarantine::new(self.folder.path().join("quarantine.jsonl"));
        let mut sink = Sink::new(&self.config, quarantine, 1_700_000_000_000, 1_000_000);
        read(&mut sink).unwrap();
        sink.write(&*self.store).await.unwrap()
    }

    async fn item(&self, id: &str) -> Item {
        self.store.get_items(&[id.to_owned()]).await.unwrap().remove(0).unwrap()
    }
}

fn tally(read: u64, new: u64, known: u64, refused: u64) -> Tally {
    Tally { read, refused, new, known }
}

#[tokio::test]
async fn json_lines_are_imported_and_bad_ones_kept_apart() {
    let ground = Ground::new().await;
    let items = ground.file(
        "items.jsonl",
        "{\"id\":\"1\",\"title\":\"Heat\",\"year\":1995,\"genres\":[\"Crime\"],\"attributes\":{\"mpaa\":\"R\"}}\n\n{\"id\":\"\"}\n{\"id\":\"2\",\"titel\":\"x\"}\n",
    );
    let mut events =
        br#"{"id":"e1","user_id":"ann","item_id":"1","type":"rating","value":5,"time":"1997-01-01T00:00:00Z"}
{"anonymous_id":"v","item_id":"9","type":"stare","time_ms":5}
{"user_id":"ann","item_id":"1","type":"watch","value":1.5,"time_ms":5}
{"user_id":"ann","item_id":"1","type":"like","time_ms":253402300799999}
"#
        .to_vec();
    events.extend(b"{\"user_id\":\"\xff\"}\n");
    let events = ground.file("events.jsonl", events);
    let users = ground.file("users.jsonl", "{\"id\":\"ann\",\"attributes\":{\"age\":24}}\n");
    let paths = [items, users, events];
    let report = ground.import(|sink| marquee::read(&paths, sink)).await;
    assert_eq!(report.items, tally(3, 1, 0, 2));
    assert_eq!(report.users, tally(1, 1, 0, 0));
    assert_eq!(report.events, tally(5, 2, 0, 3));
    assert_eq!(report.events_of_unknown_items, 1);
    let reasons: Vec<&str> = report.reasons.keys().map(String::as_str).collect();
    for reason in [
        "events.jsonl: not UTF-8",
        "events.jsonl: time: must not lie more than 300000 ms ahead of the server's clock",
        "events.jsonl: value: of a watch is the fraction watched: must lie within 0 and 1",
        "items.jsonl: id: must not be empty",
    ] {
        assert!(reasons.contains(&reason), "{reason} is missing in {reasons:#?}");
    }
    let kept = std::fs::read_to_string(report.quarantine.as_ref().unwrap()).unwrap();
    assert_eq!(kept.lines().count(), 5);
    assert!(report.to_string().contains("refused rows are in"));
    let visitor = ground.store.list_events(&UserKey::anonymous("v"), None, 10).await.unwrap();
    assert_eq!(visitor[0].event.kind.name(), "stare");

    let again = ground.import(|sink| marquee::read(&paths, sink)).await;
    assert_eq!((again.items, again.events), (tally(3, 0, 1, 2), tally(5, 0, 2, 3)), "nothing new");
}

#[tokio::test]
async fn csv_holds_the_same_as_json_lines() {
    let ground = Ground::new().await;
    ground.file("d/items.csv", "id,title,year,genres,hidden,attr.mpaa,attr.minutes\n1,\"Heat, the film\",1995,Crime|Drama,true,R,170\n2,x,19955,,,,\n");
    ground.file("d/events.csv", "user_id,item_id,type,value,time_ms\nann,1,rating,4.5,7\nann,1,rating,high,8\n");
    ground.file("d/users.csv", "id,attr.age\nann,24\n");
    let folder = [ground.folder.path().join("d")];
    let report = ground.import(|sink| marquee::read(&folder, sink)).await;
    assert_eq!((report.items.new, report.users.new, report.events.new), (1, 1, 1));
    assert_eq!(report.reasons["events.csv: value: must be a number in its range"], 1);
    let item = ground.item("1").await;
    assert_eq!((item.title.as_str(), item.genres.len(), item.hidden), ("Heat, the film", 2, true));
    assert_eq!(item.attributes.get("minutes"), Some(&170.into()));
    assert_eq!(item.created_ms, None, "history does not say");
}

#[tokio::test]
async fn a_misspelt_column_or_name_is_refused() {
    let ground = Ground::new().await;
    let quarantine = || Quarantine::new(ground.folder.path().join("q.jsonl"));
    for (name, text) in [("items.csv", "id,titel\n1,x\n"), ("films.csv", "id\n1\n"), ("items.xml", "")] {
        let path = ground.file(name, text);
        let mut sink = Sink::new(&ground.config, quarantine(), 0, 10);
        assert!(marquee::read(&[path], &mut sink).is_err(), "{name}");
    }
}

fn movielens(folder: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
    write(
        "movies.csv",
        "movieId,title,genres\n1,Toy Story (1995),Adventure|Animation\n2,\"American President, The (1995)\",(no genres listed)\n3,Death Note (2006–2007),Drama\n4,(500) Days,Drama\n",
    );
    write("links.csv", "movieId,imdbId,tmdbId\n1,0114709,862\n");
    write("tags.csv", "userId,movieId,tag,timestamp\n2,1,Pixar,1445714994\n");
    write(
        "ratings.csv",
        "userId,movieId,rating,timestamp\n1,1,4.0,964982703\n1,3,4.0,964981247\n1,1,nan,964982704\n1,1,4.0,never\n",
    );
}

#[tokio::test]
async fn a_movielens_folder_is_read_without_hindsight() {
    let ground = Ground::new().await;
    let folder = ground.folder.path().join("ml");
    movielens(&folder);
    let metadata = ground.file(
        "meta.jsonl",
        "{\"movieId\":1,\"title\":\"ignored\",\"cast\":[\"Tom Hanks\",\"(voices)\"],\"text\":\"toys\"}\n",
    );
    let options = movielens::Options { metadata: Some(&metadata), tags: false, rating_factor: 1.0 };
    let report = ground.import(|sink| movielens::read(std::slice::from_ref(&folder), &options, sink)).await;
    assert_eq!(report.items, tally(4, 4, 0, 0));
    assert_eq!(report.events, tally(4, 2, 0, 2));
    let toy = ground.item("1").await;
    assert_eq!((toy.title.as_str(), toy.year, toy.text.as_str()), ("Toy Story", Some(1995), "toys"));
    assert_eq!((toy.cast, toy.tags.len()), (vec!["Tom Hanks".to_owned()], 0));
    assert_eq!(toy.attributes.get("imdb_id"), Some(&"0114709".into()));
    assert!(ground.item("2").await.genres.is_empty());
    assert_eq!(ground.item("3").await.year, Some(2006));
    assert_eq!((ground.item("4").await.title.as_str(), ground.item("4").await.year), ("(500) Days", None));
    let events = ground.store.list_events(&UserKey::user("1"), None, 10).await.unwrap();
    assert_eq!((events[0].event.id.as_str(), events[0].event.time_ms), ("ml:1:1:964982703", 964_982_703_000));
    assert!(events[0].seq > events[1].seq, "appended in order of time");
}

#[tokio::test]
async fn tags_are_read_when_asked_for() {
    let ground = Ground::new().await;
    let folder = ground.folder.path().join("ml");
    movielens(&folder);
    let options = movielens::Options { metadata: None, tags: true, rating_factor: 1.0 };
    ground.import(|sink| movielens::read(&[folder], &options, sink)).await;
    assert_eq!(ground.item("1").await.tags, ["pixar"]);
}

#[tokio::test]
async fn a_folder_of_dat_files_on_another_scale_is_read() {
    let ground = Ground::new().await;
    ground.file("mt/movies.dat", "0113277::Heat (1995)::Action|Crime\n0000001::Carmencita (1894)::\n7::no genres\n");
    let ratings = ground.file("mt/ratings.dat", "1::0113277::9::1362062307\n1::0113277::nine::1362062308\n");
    let options = movielens::Options { metadata: None, tags: false, rating_factor: 0.5 };
    let folder = ratings.parent().unwrap().to_owned();
    let report = ground.import(|sink| movielens::read(&[folder], &options, sink)).await;
    assert_eq!((report.items, report.events), (tally(3, 2, 0, 1), tally(2, 1, 0, 1)));
    let heat = ground.item("0113277").await;
    assert_eq!((heat.title.as_str(), heat.year, heat.genres.len()), ("Heat", Some(1995), 2));
    let events = ground.store.list_events(&UserKey::user("1"), None, 10).await.unwrap();
    assert_eq!(events[0].event.value, Some(4.5));
    let kept = std::fs::read_to_string(report.quarantine.as_ref().unwrap()).unwrap();
    assert!(kept.contains(r#""file":"movies.dat","line":3,"#), "{kept}");
    assert!(kept.contains(r#""file":"ratings.dat","line":2,"#), "{kept}");
}

#[tokio::test]
async fn the_recbole_layout_is_read_with_its_graph_but_without_awards() {
    let ground = Ground::new().await;
    let folder = ground.folder.path().join("r");
    std::fs::create_dir_all(&folder).unwrap();
    let write = |suffix: &str, text: &str| std::fs::write(folder.join(format!("ml-100k.{suffix}")), text).unwrap();
    write(
        "item",
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n1\tToy Story\t1995\tAnimation Children's\n2\tunkonwn\tunkonwn\tunknown\n",
    );
    write("user", "user_id:token\tage:token\n7\t24\n");
    write("inter", "user_id:token\titem_id:token\trating:float\ttimestamp:float\n7\t1\t3\t881250949\n");
    write("link", "item_id:token\tentity_id:token\n1\tm.toy\n");
    write(
        "kg",
        "head_id:token\trelation_id:token\ttail_id:token\nm.toy\tfilm.film.actor\tm.b\nm.toy\tfilm.film.actor\tm.a\nm.x\tfilm.film.actor\tm.c\nm.toy\tfilm.film.award_won\tm.oscar\nm.toy\tfilm.film.written_by\tm.w\nm.d\tfilm.director.film\tm.toy\nm.toy\tfilm.film.directed_by\tm.d\n",
    );
    let report = ground.import(|sink| recbole::read(&[folder], sink)).await;
    assert_eq!((report.items.new, report.users.new, report.events.new), (2, 1, 1));
    let toy = ground.item("1").await;
    assert_eq!((toy.cast.join(" "), toy.directors.join(" ")), ("m.a m.b".to_owned(), "m.d".to_owned()));
    assert_eq!(serde_json::to_string(&toy.attributes).unwrap(), "{\"writers\":[\"m.w\"]}");
    assert_eq!((ground.item("2").await.year, ground.item("2").await.genres.len()), (None, 0));
}

/// Runs when MARQUEE_TEST_WHEEL names recbole-1.2.1's wheel: its data may not be committed.
#[tokio::test]
async fn the_wheel_is_read_in_place() {
    let Some(wheel) = std::env::var_os("MARQUEE_TEST_WHEEL").map(PathBuf::from) else { return };
    let ground = Ground::new().await;
    let report = ground.import(|sink| recbole::read(&[wheel], sink)).await;
    assert_eq!(report.items, tally(1_682, 1_682, 0, 0));
    assert_eq!(report.users, tally(943, 943, 0, 0));
    assert_eq!(report.events, tally(100_000, 100_000, 0, 0));
}
