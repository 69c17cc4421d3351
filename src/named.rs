//! Names for the variants of an enum: one definition for parsing and for printing.

/// Gives an enum of plain variants `ALL`, `name`, `Display` and `FromStr`. Names are lower case;
/// parsing takes any case, and `_` for `-`.
macro_rules! named {
    ($type:ident { $($variant:ident = $name:literal),* $(,)? }) => {
        impl $type {
            /// All of them.
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$variant),*];

            /// Its name on the command line, in files and in reports.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.name())
            }
        }

        impl std::str::FromStr for $type {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                match text.to_ascii_lowercase().replace('_', "-").as_str() {
                    $($name => Ok(Self::$variant),)*
                    _ => Err(format!("`{text}` is none of {}", [$($name),*].join(", "))),
                }
            }
        }
    };
}

pub(crate) use named;

#[cfg(test)]
mod tests {
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Form {
        Dense,
        LowRank,
    }

    named!(Form { Dense = "dense", LowRank = "low-rank" });

    #[test]
    fn names_parse_back() {
        for form in Form::ALL {
            assert_eq!(form.to_string().parse(), Ok(form));
        }
        assert_eq!("Low_Rank".parse(), Ok(Form::LowRank));
        assert_eq!(format!("{:>9}", Form::LowRank), " low-rank");
        assert_eq!("sparse".parse::<Form>(), Err("`sparse` is none of dense, low-rank".to_owned()));
    }
}
