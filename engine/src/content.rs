//! Content vectors: from an item's words to a dense vector of unit length.
//!
//! The one definition of an item's tokens. Python fits `idf` and `projection` on the tokens that this module
//! writes; vectors of old and new items alike are computed here.

use rustc_hash::FxHashMap;

use crate::types::Item;

/// Words of an item's text that count, from its start.
const TEXT_WORDS_MAX: usize = 400;
/// Cast members that count, in billing order.
const CAST_MAX: usize = 12;

/// The item's tokens with their weights (term frequency times field weight), sorted by token, each once.
///
/// Tokens are `field:value` in lower case: `genre:drama`, `cast:tom hanks`, `director:..`, `tag:..`, `text:space`,
/// `decade:1990`.
pub fn tokens(item: &Item) -> Vec<(String, f32)> {
    let mut counts: FxHashMap<String, f32> = FxHashMap::default();
    let mut add = |field: &str, value: &str, weight: f32| {
        let value = value.trim();
        if !value.is_empty() {
            *counts.entry(format!("{field}:{}", value.to_lowercase())).or_insert(0.0) += weight;
        }
    };
    item.genres.iter().for_each(|genre| add("genre", genre, 1.0));
    item.cast.iter().take(CAST_MAX).for_each(|name| add("cast", name, 0.6));
    item.directors.iter().for_each(|name| add("director", name, 1.0));
    item.tags.iter().for_each(|tag| add("tag", tag, 0.8));
    if let Some(year) = item.year {
        add("decade", &(year / 10 * 10).to_string(), 0.5);
    }
    for name in ["writers", "countries"] {
        let values = item.attributes.get(name).and_then(serde_json::Value::as_array);
        for value in values.into_iter().flatten().filter_map(serde_json::Value::as_str) {
            add(name, value, 0.4);
        }
    }
    let words = item.title.split(|c: char| !c.is_alphanumeric()).filter(|word| word.len() > 2);
    words.for_each(|word| add("text", word, 0.5));
    let words = item.text.split(|c: char| !c.is_alphanumeric()).filter(|word| word.len() > 2);
    words.take(TEXT_WORDS_MAX).for_each(|word| add("text", word, 0.2));
    let mut tokens: Vec<(String, f32)> = counts
        .into_iter()
        // Sub-linear in the number of occurrences: 1 + ln(tf) for tf above 1.
        .map(|(token, weight)| if weight > 1.0 { (token, 1.0 + weight.ln()) } else { (token, weight) })
        .collect();
    tokens.sort_by(|a, b| a.0.cmp(&b.0));
    tokens
}

/// Vocabulary, inverse document frequencies and the projection to dense vectors.
#[derive(Debug, Clone, Default)]
pub struct ContentModel {
    vocabulary: FxHashMap<String, u32>,
    idf: Vec<f32>,
    projection: Vec<f32>,
    dims: usize,
}

impl ContentModel {
    /// `projection` is row-major, vocabulary x dims; every number finite.
    ///
    /// # Errors
    /// Lengths that do not agree, a token twice, a number that is not finite.
    pub fn new(vocabulary: Vec<String>, idf: Vec<f32>, projection: Vec<f32>) -> Result<ContentModel, String> {
        let size = vocabulary.len();
        if idf.len() != size || size == 0 || !projection.len().is_multiple_of(size) || projection.is_empty() {
            return Err(format!("{size} tokens, {} idf, {} numbers of projection", idf.len(), projection.len()));
        }
        if !idf.iter().chain(&projection).all(|number| number.is_finite()) {
            return Err("a number is not finite".to_owned());
        }
        let map: FxHashMap<String, u32> = vocabulary.into_iter().zip(0..).collect();
        if map.len() != size {
            return Err("a token stands twice in the vocabulary".to_owned());
        }
        let dims = projection.len() / size;
        Ok(ContentModel { vocabulary: map, idf, projection, dims })
    }

    /// Numbers of a vector.
    pub fn dims(&self) -> usize {
        self.dims
    }

    /// The item's vector, of length 1, or all zero when nothing of it is in the vocabulary.
    pub fn vector(&self, item: &Item) -> Vec<f32> {
        let mut vector = vec![0.0_f32; self.dims];
        for (token, weight) in tokens(item) {
            if let Some(&id) = self.vocabulary.get(&token) {
                let id = id as usize;
                let weight = weight * self.idf[id];
                let row = &self.projection[id * self.dims..(id + 1) * self.dims];
                vector.iter_mut().zip(row).for_each(|(sum, number)| *sum += weight * number);
            }
        }
        let norm = vector.iter().map(|number| number * number).sum::<f32>().sqrt();
        if norm > 1e-12 && norm.is_finite() {
            vector.iter_mut().for_each(|number| *number /= norm);
        } else {
            vector.fill(0.0);
        }
        vector
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn film() -> Item {
        Item {
            id: "1".into(),
            title: "Heat".into(),
            genres: vec!["Crime".into(), "crime".into()],
            directors: vec![" Michael Mann ".into()],
            text: "A heist; a HEIST!".into(),
            ..Item::default()
        }
    }

    #[test]
    fn tokens_are_lower_case_sorted_and_unique() {
        let names: Vec<String> = tokens(&film()).into_iter().map(|(token, _)| token).collect();
        assert_eq!(names, ["director:michael mann", "genre:crime", "text:heat", "text:heist"]);
    }

    #[test]
    fn a_vector_has_length_one_or_is_zero() {
        let vocabulary = vec!["genre:crime".to_owned(), "text:heist".to_owned()];
        let model = ContentModel::new(vocabulary, vec![1.0, 2.0], vec![1.0, 0.0, 0.0, 1.0]).unwrap();
        let norm: f32 = model.vector(&film()).iter().map(|x| x * x).sum();
        assert!((norm - 1.0).abs() < 1e-6);
        assert_eq!(model.vector(&Item::default()), vec![0.0, 0.0]);
    }

    #[test]
    fn lengths_that_disagree_are_refused() {
        assert!(ContentModel::new(vec!["a".to_owned()], vec![1.0, 1.0], vec![1.0]).is_err());
        assert!(ContentModel::new(vec!["a".to_owned(), "a".to_owned()], vec![1.0, 1.0], vec![1.0, 1.0]).is_err());
    }
}
