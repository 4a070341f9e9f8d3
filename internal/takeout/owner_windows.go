package takeout

func giveLike(string, string) error { return nil }
