from django.urls import path

from . import views

urlpatterns = [
    path("", views.JournalList.as_view(), name="home"),
    path("journals/<slug:slug>/", views.EntryList.as_view(), name="journal"),
    path("journals/<slug:slug>/new/", views.NewEntry.as_view(), name="new-entry"),
    path("entries/<int:pk>/", views.EntryDetail.as_view(), name="entry"),
]
