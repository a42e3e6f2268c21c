//! Statistic: placeholder until its file is here.
