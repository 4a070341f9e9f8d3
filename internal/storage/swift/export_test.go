package swift

// SetPage has listings come in pages of n names.
func (s *Store) SetPage(n int) { s.page = n }
