//! Named dense arrays in safetensors files: reading with every length and type checked, writing in place.

use std::collections::HashMap;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};

use super::Error;

/// The arrays of one file.
#[derive(Debug)]
pub struct Arrays<'a> {
    file: &'a str,
    tensors: SafeTensors<'a>,
    metadata: HashMap<String, String>,
}

impl<'a> Arrays<'a> {
    /// Reads the header; `file` is the name used in errors.
    ///
    /// # Errors
    /// Not a safetensors file, or one whose header disagrees with its length.
    pub fn parse(file: &'a str, bytes: &'a [u8]) -> Result<Arrays<'a>, Error> {
        let wrong = |error: safetensors::SafeTensorError| Error::format(file, error.to_string());
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(wrong)?;
        let metadata = header.metadata().clone().unwrap_or_default();
        Ok(Arrays { file, tensors: SafeTensors::deserialize(bytes).map_err(wrong)?, metadata })
    }

    /// Whether there is an array of that name.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.tensor(name).is_ok()
    }

    /// A text of the header.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn text(&self, name: &str) -> Result<&str, Error> {
        let found = self.metadata.get(name).map(String::as_str);
        found.ok_or_else(|| Error::format(self.file, format!("no {name:?} in the header")))
    }

    /// Numbers of an array with its shape.
    ///
    /// # Errors
    /// No such array, or one of another type.
    pub fn numbers<T: Number>(&self, name: &str) -> Result<(Vec<T>, Vec<usize>), Error> {
        let tensor = self.tensors.tensor(name).map_err(|_| Error::format(self.file, format!("no array {name:?}")))?;
        if tensor.dtype() != T::DTYPE {
            let (found, wanted) = (tensor.dtype(), T::DTYPE);
            return Err(Error::format(self.file, format!("{name:?} holds {found:?}, not {wanted:?}")));
        }
        let numbers = tensor.data().chunks_exact(size_of::<T>()).map(T::read).collect();
        Ok((numbers, tensor.shape().to_vec()))
    }

    /// A vector of known length.
    ///
    /// # Errors
    /// As [`Arrays::numbers`], or another shape.
    pub fn vector<T: Number>(&self, name: &str, len: usize) -> Result<Vec<T>, Error> {
        let (numbers, shape) = self.numbers(name)?;
        if shape == [len] { Ok(numbers) } else { Err(self.shape(name, &shape, &[len])) }
    }

    /// A matrix with a known number of rows; gives its columns too.
    ///
    /// # Errors
    /// As [`Arrays::numbers`], or another shape.
    pub fn matrix<T: Number>(&self, name: &str, rows: usize) -> Result<(Vec<T>, usize), Error> {
        let (numbers, shape) = self.numbers(name)?;
        match shape[..] {
            [found, columns] if found == rows => Ok((numbers, columns)),
            _ => Err(self.shape(name, &shape, &[rows])),
        }
    }

    fn shape(&self, name: &str, found: &[usize], wanted: &[usize]) -> Error {
        Error::format(self.file, format!("{name:?} has shape {found:?}, not {wanted:?}"))
    }
}

/// A number that arrays hold.
pub trait Number: Copy {
    /// Its type in the file.
    const DTYPE: Dtype;
    /// From its little-endian bytes, exactly as many as it has.
    fn read(bytes: &[u8]) -> Self;
    /// Adds its little-endian bytes.
    fn write(self, bytes: &mut Vec<u8>);
}

macro_rules! number {
    ($($type:ty => $dtype:ident),*) => {$(
        impl Number for $type {
            const DTYPE: Dtype = Dtype::$dtype;
            fn read(bytes: &[u8]) -> $type {
                <$type>::from_le_bytes(bytes.try_into().expect("chunks have the size of the type"))
            }
            fn write(self, bytes: &mut Vec<u8>) {
                bytes.extend_from_slice(&self.to_le_bytes());
            }
        }
    )*};
}

number!(f32 => F32, i64 => I64, u64 => U64, i32 => I32, u32 => U32, u16 => U16, u8 => U8);

/// Collects arrays and writes them as one file.
#[derive(Debug, Default)]
pub struct ArraysWriter {
    arrays: Vec<(String, Dtype, Vec<usize>, Vec<u8>)>,
    metadata: HashMap<String, String>,
}

impl ArraysWriter {
    /// Adds an array; the product of `shape` is the number of numbers.
    pub fn add<T: Number>(&mut self, name: &str, shape: &[usize], numbers: &[T]) -> &mut ArraysWriter {
        debug_assert_eq!(shape.iter().product::<usize>(), numbers.len(), "{name}");
        let mut bytes = Vec::with_capacity(size_of_val(numbers));
        numbers.iter().for_each(|&number| number.write(&mut bytes));
        self.arrays.push((name.to_owned(), T::DTYPE, shape.to_vec(), bytes));
        self
    }

    /// Adds a text to the header.
    pub fn text(&mut self, name: &str, value: &str) -> &mut ArraysWriter {
        self.metadata.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Writes the file.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let views = self.arrays.iter().map(|(name, dtype, shape, bytes)| {
            let view =
                TensorView::new(*dtype, shape.clone(), bytes).map_err(|error| Error::format(name, error.to_string()));
            view.map(|view| (name.clone(), view))
        });
        let views = views.collect::<Result<Vec<_>, Error>>()?;
        let metadata = (!self.metadata.is_empty()).then(|| self.metadata.clone());
        let bytes = serialize(views, metadata)
            .map_err(|error| Error::format(&path.display().to_string(), error.to_string()))?;
        std::fs::write(path, bytes).map_err(|error| Error::read(path, &error))
    }
}
