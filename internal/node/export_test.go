package node

// SetPages changes how much one request asks for, and returns what undoes that.
func SetPages(names, infos int) (undo func()) {
	oldNames, oldInfos := namesPage, infoPage
	namesPage, infoPage = names, infos
	return func() { namesPage, infoPage = oldNames, oldInfos }
}
